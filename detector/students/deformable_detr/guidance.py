"""Language queries (METHOD.md section 4, eq. 1) and which concepts count as present (section 3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cckt.detector.students.contract import PresentText

Rows = NDArray[np.int64]


def deal(counts: Tensor, queries: int) -> Tensor:
    """Deal the queries out to the present concepts: equal consecutive runs, the first N mod G one longer.

    counts: (B,) int64, present concepts of each photo. Returns (B, queries) int64: the number of each query's
    concept, or -1 where a photo has none. More concepts than queries: the first (likeliest) N have one each.
    """
    return deal_runs(counts, queries)[0]


def deal_runs(counts: Tensor, queries: int) -> tuple[Tensor, Tensor]:
    """`deal`, and each query's place in its concept's run (from 0), both (B, queries) int64.

    Without present concepts all queries are one run.
    """
    groups = counts.clamp(0, queries)[:, None]
    share = groups.clamp(min=1)
    # Not `queries // share`: a number over a tensor has no ONNX.
    short = torch.full_like(share, queries) // share
    extra = queries - short * share
    query = torch.arange(queries, device=counts.device)[None]
    in_long = extra * (short + 1)  # queries that stand in the longer runs
    concept = torch.where(query < in_long, query // (short + 1), extra + (query - in_long) // short)
    first = concept * short + torch.minimum(concept, extra)
    return torch.where(groups > 0, concept, -1), query - first


class LanguageGuidance(nn.Module):
    """Adds the projected text of the present concepts to the content of the queries."""

    def __init__(self, embedding_dim: int, hidden: int) -> None:
        super().__init__()
        self.project = nn.Linear(embedding_dim, hidden)
        # A unit vector times weights of variance 1 has entries of variance 1, as the learned content has.
        # With a usual initialisation the words are a hundredth of its energy, and are never listened to.
        nn.init.normal_(self.project.weight)
        nn.init.zeros_(self.project.bias)

    def forward(self, content: Tensor, present: PresentText) -> Tensor:
        """content: (B, N, d). Returns the same; without present concepts queries stay as learned."""
        text = present.embeddings
        if text.shape[1] == 0:  # one padding row, so that the projection is in the graph of every rank
            text = text.new_zeros((text.shape[0], 1, text.shape[2]))
        concept = deal(present.counts, content.shape[1])[..., None]
        added = self.project(text).gather(1, concept.clamp(min=0).expand(-1, -1, content.shape[-1]))
        out: Tensor = content + added * (concept >= 0).to(added.dtype)
        return out


def choose_present(
    probabilities: NDArray[np.floating],
    rho: float,
    limit: int,
    fill: Literal["none", "random", "top"] = "none",
    image_ids: Sequence[int] | NDArray[np.integer] | None = None,
) -> list[Rows]:
    """The concepts that count as present in each photo, likeliest first (ties: lower row first).

    probabilities: (I, C) in [0, 1]; those of at least `rho` pass (NaN never does), at most `limit`.
    fill: what makes up for fewer than `limit`: nothing, random others (seeded by image id, after those that
    passed), or the best below rho. image_ids: (I,), needed for "random". Returns I arrays of concept rows.
    """
    assert probabilities.ndim == 2, f"expected (images, concepts), found {probabilities.shape}"
    concepts = probabilities.shape[1]
    known = np.nan_to_num(np.asarray(probabilities, np.float64), nan=-1.0)
    order = np.argsort(-known, axis=1, kind="stable")[:, :limit].astype(np.int64)
    passed = (np.take_along_axis(known, order, 1) >= rho).sum(1)
    if fill == "top":
        return list(order)
    chosen = [row[:count] for row, count in zip(order, passed, strict=True)]
    if fill == "none":
        return chosen
    assert image_ids is not None, 'fill "random" is seeded by image ids'
    filled = []
    for rows, image_id in zip(chosen, image_ids, strict=True):
        others = np.setdiff1d(np.arange(concepts, dtype=np.int64), rows)
        short = min(limit - len(rows), len(others))
        draw = random_of(image_id).choice(others, size=short, replace=False)
        filled.append(np.concatenate([rows, draw]))
    return filled


def random_of(image_id: int | np.integer) -> np.random.Generator:
    """A photo's own random numbers, the same whenever it is asked; ids below 0 have theirs too."""
    return np.random.default_rng(int(image_id) % 2**63)


def disturb_present(
    rows: Rows, concepts: int, drop: float, add: float, none: float, random: np.random.Generator
) -> Rows:
    """True concepts with mistakes (beyond the paper): guidance noise in training, so that the detector stands
    on weak priors, and at test the priors "corrupted".

    rows: present concept rows of one photo, out of 0..concepts-1. With probability `none` nothing is left;
    else each row is withheld with probability `drop`, and absent ones join: `add` of them on average
    (Poisson). The result is shuffled, so that a wrong concept can stand anywhere.
    """
    if random.random() < none:
        return rows[:0]
    left = rows[random.random(len(rows)) >= drop]
    absent = np.setdiff1d(np.arange(concepts, dtype=np.int64), rows)
    extra = random.choice(absent, size=min(int(random.poisson(add)), len(absent)), replace=False)
    return random.permutation(np.concatenate([left, extra]))
