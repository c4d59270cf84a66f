"""Which concepts an image contains: CLIP's probability, the rule for rho and L, and the annotations (the
oracle).

The one home of these three; training, evaluation, prediction and the quality report all use it.

Shape legend: I images, C concepts, D width of the teacher.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cckt.cache_builder.base.constants import TAU
from cckt.cache_builder.index import Index

Rows = NDArray[np.int64]
"""Rows of concepts, (G,) int64."""


def clip_probability(
    images: NDArray[np.floating], text: NDArray[np.floating], tau: float = TAU
) -> NDArray[np.float32]:
    """Return (I, C) float32 sigma(cos(image, text) / tau) of (I, D) and (C, D) unit rows (eq. 5)."""
    logits = images.astype(np.float32) @ text.astype(np.float32).T / np.float32(tau)
    # sigma(x) = (1 + tanh(x / 2)) / 2 never overflows
    probability: NDArray[np.float32] = (0.5 * (1.0 + np.tanh(0.5 * logits))).astype(np.float32)
    return probability


def rank_present(
    probabilities: NDArray[np.floating], rho: float, limit: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rank the `limit` most probable concepts of each image and count those of at least `rho` (eq. 7).

    probabilities: (I, C) in [0, 1]; NaN never passes. Returns (I, min(limit, C)) rows of concepts, most
    probable first (ties: lower row first), and (I,) how many of them pass.
    """
    assert probabilities.ndim == 2, f"expected (images, concepts), found {probabilities.shape}"
    known = np.nan_to_num(np.asarray(probabilities, np.float64), nan=-1.0)
    order = np.argsort(-known, axis=1, kind="stable")[:, :limit].astype(np.int64)
    passed: NDArray[np.int64] = (np.take_along_axis(known, order, 1) >= rho).sum(1)
    return order, passed


def choose_present(
    probabilities: NDArray[np.floating],
    rho: float,
    limit: int,
    fill: Literal["none", "random", "top"] = "none",
    image_ids: Sequence[int] | NDArray[np.integer] | None = None,
) -> list[Rows]:
    """Return the present concepts of each image, most probable first: I arrays of rows (eq. 7).

    probabilities: (I, C) in [0, 1]. fill: what is added if fewer than `limit` pass: nothing, random other
    concepts (seeded by image id, after those that passed), or the most probable ones below rho. image_ids:
    (I,), needed for "random".
    """
    order, passed = rank_present(probabilities, rho, limit)
    if fill == "top":
        return list(order)
    chosen = [row[:count] for row, count in zip(order, passed, strict=True)]
    if fill == "none":
        return chosen
    assert image_ids is not None, 'fill "random" needs image_ids, its seeds'
    filled = []
    for rows, image_id in zip(chosen, image_ids, strict=True):
        others = np.setdiff1d(np.arange(probabilities.shape[1], dtype=np.int64), rows)
        missing = min(limit - len(rows), len(others))
        draw = generator_of(image_id).choice(others, size=missing, replace=False)
        filled.append(np.concatenate([rows, draw]))
    return filled


def present_mask(probabilities: NDArray[np.floating], rho: float, limit: int) -> NDArray[np.bool_]:
    """Return (I, C) bool: the concept is present by `rank_present`."""
    order, passed = rank_present(probabilities, rho, limit)
    mask = np.zeros(probabilities.shape, bool)
    np.put_along_axis(mask, order, np.arange(order.shape[1])[None] < passed[:, None], axis=1)
    return mask


def seed_of(ident: int | np.integer) -> int:
    """Return the seed of an image or annotation id: the id; a negative one is counted down from 2**63."""
    return int(ident) % 2**63


def generator_of(image_id: int | np.integer) -> np.random.Generator:
    """Return the random generator of an image, equal for equal ids; negative ids have one too."""
    return np.random.default_rng(seed_of(image_id))


def oracle_presence(index: Index) -> NDArray[np.bool_]:
    """Return (I, C) bool: the concept is annotated in the image, by a box that is no crowd.

    An upper bound for priors, and what training uses: crowds are no targets, so they guide no queries. Reads
    only the index: built with keep="base", no novel concept is ever present.
    """
    presence = np.zeros((len(index), len(index.concepts)), bool)
    kept = ~index.iscrowd
    presence[index.box_images[kept], index.box_concepts[kept]] = True
    return presence


def known_pairs(index: Index) -> NDArray[np.bool_] | None:
    """Return (I, C) bool: whether the annotations settle if the concept is present; None where they settle
    all.

    Not settled: a concept that only a crowd shows, which is neither a target nor absent; and, in LVIS, a
    concept that is neither annotated nor verified to be absent. Figures of priors leave these pairs out.
    """
    crowds = np.zeros((len(index), len(index.concepts)), bool)
    crowds[index.box_images[index.iscrowd], index.box_concepts[index.iscrowd]] = True
    presence = oracle_presence(index)
    crowds &= ~presence
    federated = len(index.neg_rows) > 0
    if not federated and not crowds.any():
        return None
    known = presence.copy() if federated else np.ones_like(presence)
    known[np.repeat(np.arange(len(index)), np.diff(index.neg_offsets)), index.neg_rows] = True
    return known & ~crowds
