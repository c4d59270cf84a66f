"""Nouns of proposals as columns of a bank of texts, with their weights (docs/method/hd_ovd.md, eqs. 11, 12
and 23).

Every proposal has a place for a column, so that shapes depend on no noun. Which columns take part, and which
column is the label of a proposal, follows from the options for repeated nouns and for base names.

Shape legend: R ranks (1 unless rows are gathered), B images, P distilled proposals of an image (padded), U =
R B P columns, C base concepts, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cckt.cache_builder.base.errors import UserError
from cckt.detector.config.terms import NounConfig
from cckt.detector.losses.region_slots import PROPOSAL_CROP, proposal_count
from cckt.detector.losses.terms.term import Ranks
from cckt.detector.students.targets import PaddedTargets

NOUN = "noun"
"""Name of the teacher rows of nouns."""
CONSTANTS = ("s0", "s_delta", "w_max")
"""Keys of the fitted constants of eq. 12, in the recipe of the nouns' column under "weight"."""


@dataclass(frozen=True)
class WeightConstants:
    """Constants of the weight of a noun (eq. 12)."""

    s0: float
    s_delta: float
    w_max: float

    @staticmethod
    def of(options: NounConfig, recipes: Mapping[str, Mapping[str, Any]]) -> WeightConstants:
        """Return those of the options, or the fitted ones. Raises UserError if the column holds none."""
        if options.noun_weight == "fixed":
            return WeightConstants(options.s0, options.s_delta, options.w_max)
        fitted = recipes.get(NOUN, {}).get("weight")
        if not isinstance(fitted, Mapping) or not all(name in fitted for name in CONSTANTS):
            raise UserError(
                "option noun_weight: found 'fitted', but the column of nouns holds no fitted weight; fit it "
                "with cckt cache fit-nouns DATA, or use --set terms.novel_aware_classes.noun_weight=fixed "
                "--set terms.text_relation.noun_weight=fixed."
            )
        return WeightConstants(*(float(fitted[name]) for name in CONSTANTS))

    def weight(self, cosine: Tensor) -> Tensor:
        """Return the weight of nouns whose cosine with their crop is given (eq. 12)."""
        return self.w_max * ((cosine - self.s0) / self.s_delta).sigmoid()


@dataclass(frozen=True)
class NounBank:
    """Nouns of the distilled proposals of a batch, as columns of a bank of texts."""

    text: Tensor
    """(U, D) unit; zeros where no column."""
    live: Tensor
    """(B, U) bool: the column takes part for an image."""
    label: Tensor
    """(B, P) int64: column of each own proposal among C base concepts, then U nouns; 0 where weight is 0."""
    right: Tensor
    """(B, P, U) bool: noun columns that are right for each own proposal."""
    weight: Tensor
    """(B, P) float32: weight of each own proposal; 0 without a noun, without a crop, or dropped."""
    known: Tensor
    """(B, P) bool: a distilled proposal with noun and crop, dropped or not."""
    own_text: Tensor
    """(B, P, D) unit text of each own proposal; zeros where not `known`."""


def nouns_of(
    targets: PaddedTargets,
    options: NounConfig,
    constants: WeightConstants,
    concepts: int,
    most: int,
    negatives: str,
    ranks: Ranks,
    width: int,
) -> NounBank:
    """Return the nouns of a batch.

    concepts: C; a noun id below C is a base concept. most: `data.proposals`. negatives: whose columns take
    part for an image: its own ("image"), those of the "rank", or of all ranks ("world"). width: D of the
    teacher.
    """
    count = proposal_count(targets, most)
    if not count:
        return _none(targets, width)
    assert targets.proposals is not None, "a count of proposals without proposals"
    rows, crops = targets.teacher[NOUN], targets.teacher[PROPOSAL_CROP]
    assert rows.ids is not None, "rows of nouns need ids"
    known = (rows.valid & crops.valid & targets.proposals.distilled)[:, :count]
    text = rows.values[:, :count].float().masked_fill(~known[..., None], 0.0)
    crop = crops.values[:, :count].float().masked_fill(~known[..., None], 0.0)
    ids = rows.ids[:, :count].masked_fill(~known, -1)
    base = known & (ids < concepts) & (options.base_nouns != "separate")
    weight = constants.weight((text * crop).sum(-1)) * known
    if options.base_nouns == "drop":
        weight = weight * ~base
    column = known & ~base
    every = [text, column, ids]
    first_image = 0
    if negatives == "world":
        every = [ranks.gather_rows(one) for one in every]
        first_image = ranks.rank * len(ids)
    wide_text, wide_column, wide_ids = (one.flatten(0, 1) for one in every)
    image = torch.arange(len(every[2]), device=ids.device).repeat_interleave(count)
    number = torch.arange(len(wide_ids), device=ids.device)
    if options.repeated_nouns == "separate":
        same = number[:, None] == number
    else:
        same = wide_ids[:, None] == wide_ids
    same = same & wide_column[:, None] & wide_column
    if negatives == "image":
        same = same & (image[:, None] == image)
    first = same.to(torch.uint8).argmax(1)  # of equal values the first
    kept = wide_column & (first == number) if options.repeated_nouns == "column" else wide_column
    mine = torch.arange(len(ids), device=ids.device) + first_image
    live = kept & (image == mine[:, None]) if negatives == "image" else kept.expand(len(ids), -1)
    own = slice(first_image * count, (first_image + len(ids)) * count)
    right = (same[own] & kept).view(*ids.shape, -1)
    label = torch.where(base, ids, concepts + first[own].view_as(ids))
    label = label.masked_fill(weight == 0, 0)
    return NounBank(
        wide_text.masked_fill(~wide_column[:, None], 0.0), live, label, right, weight, known, text
    )


def _none(targets: PaddedTargets, width: int) -> NounBank:
    """Return the nouns of a batch without proposals."""
    images = len(targets.boxes)
    boxes, flags = targets.boxes.float(), targets.real
    none = boxes.new_zeros((images, 0))
    return NounBank(
        boxes.new_zeros((0, width)),
        flags.new_zeros((images, 0)),
        none.long(),
        flags.new_zeros((images, 0, 0)),
        none,
        none.bool(),
        boxes.new_zeros((images, 0, width)),
    )
