"""Options of the distillation terms: one section per term, all listed in one table.

A term is off while its weight is 0. Its code is the class of the same name in `losses/terms/`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from cckt.cache_builder.base.errors import UserError
from cckt.detector.config.checks import at_least, fraction, require
from cckt.detector.config.model import ModelConfig


@dataclass(frozen=True)
class TermConfig:
    """Options that every distillation term has."""

    heads: ClassVar[tuple[str, ...]] = ()
    """Options of `ModelConfig` that the term needs to be true."""

    weight: float = 0.0
    """Factor on the term's loss; 0 turns the term off."""
    first_epoch: int = 0
    """First epoch (counted from 0) with the term."""

    def check(self, section: str) -> None:
        """Raise UserError naming `section` for a value out of range."""
        at_least(section, self, 0, "weight", "first_epoch")

    def check_parts(self, section: str, model: ModelConfig, proposals: int) -> None:
        """Raise UserError if the student lacks a head that the term needs, or the run its proposals."""
        for head in self.heads:
            if not getattr(model, head):
                raise UserError(
                    f"option {section}.weight: found {self.weight:g} with model.{head} false, expected the "
                    f"head that the term trains; add --set model.{head}=true, or --set {section}.weight=0."
                )

    def require_proposals(self, section: str, option: str, proposals: int) -> None:
        """Raise UserError if an option needs proposals and the run has none."""
        if not proposals:
            raise UserError(
                f"option {section}.{option}: found {getattr(self, option)!r} with data.proposals 0, expected "
                "proposals to learn from; make their table with cckt cache proposals and add --set "
                "data.proposals=5."
            )


@dataclass(frozen=True)
class RegionContrastConfig(TermConfig):
    """Regional contrastive distillation (docs/method/cckt_det.md, eqs. 19 to 22)."""

    weight: float = 1.0
    """Factor on the contrastive loss; 0 turns it off."""
    first_epoch: int = 30
    """First epoch (counted from 0) with the contrastive loss; the paper: after 30 epochs, thus index 30."""
    negatives: Literal["image", "batch"] = "image"
    """Decision. Other queries and objects in the contrast: those of the same image, or those of the batch (of
    all ranks, but only of one accumulated part: more parts mean fewer negatives)."""
    teacher_bank: Literal["instance", "class", "cache"] = "instance"
    """Decision. "instance": the crop of each object; "class": one valid crop per class and step, drawn from
    the batch, with several positives per class; "cache": one crop of every base class, drawn each step from
    all crops of the training data, and all classes are candidates (the authors' code)."""
    divisor: Literal["embedded", "objects"] = "embedded"
    """Objects that the sums are divided by: "embedded", those of the global batch with a teacher embedding,
    so that the loss is their mean (the paper); "objects", all of them, like the detection losses."""
    proposals: bool = False
    """Beyond the paper: crops of proposals are further rows and candidates, each an object of its own class.
    The loss is still divided by the annotated objects."""

    def check_parts(self, section: str, model: ModelConfig, proposals: int) -> None:
        """Raise UserError if proposals are asked for and there are none."""
        super().check_parts(section, model, proposals)
        if self.proposals:
            self.require_proposals(section, "proposals", proposals)
        if self.proposals and self.teacher_bank == "cache":
            raise UserError(
                f"option {section}.teacher_bank: found 'cache' with {section}.proposals true, expected "
                "'instance' or 'class': proposals have no class to draw a crop of; add --set "
                f"{section}.proposals=false, or another teacher_bank."
            )


@dataclass(frozen=True)
class InstanceConfig(TermConfig):
    """What the terms of the instance level have in common (docs/method/hd_ovd.md, section 4)."""

    scale: float = 20.0
    """Factor s on the cosines."""
    regions: Literal["both", "objects", "proposals"] = "both"
    """Decision. Which pairs are distilled: those of annotated objects, of proposals, or both."""
    gate: float = 0.5
    """A pair counts if the IoU of its region and its box is above this (eq. 16); 0 counts all."""
    layers: Literal["all", "last"] = "all"
    """Output layers whose regions are distilled."""
    negatives: Literal["rank", "world"] = "rank"
    """Decision. Rows that a region is compared with: those of its rank, as released, or of all ranks."""

    def check(self, section: str) -> None:
        """Raise UserError naming `section` for a value out of range."""
        super().check(section)
        at_least(section, self, 0, "scale")
        fraction(section, self, "gate")

    def check_parts(self, section: str, model: ModelConfig, proposals: int) -> None:
        """Raise UserError if only proposals are distilled and there are none."""
        super().check_parts(section, model, proposals)
        if self.regions == "proposals":
            self.require_proposals(section, "regions", proposals)


@dataclass(frozen=True)
class InstanceContrastConfig(InstanceConfig):
    """Contrast of regions with crops, with queues of past pairs (docs/method/hd_ovd.md, eq. 18)."""

    queue: int = 2048
    """Past pairs of each layer that are further columns, over all ranks; 0 for none."""

    def check(self, section: str) -> None:
        """Raise UserError naming `section` for a value out of range."""
        super().check(section)
        at_least(section, self, 0, "queue")


@dataclass(frozen=True)
class InstanceRelationConfig(InstanceConfig):
    """Relations among regions as among their crops (docs/method/hd_ovd.md, eq. 19)."""

    scale: float = 5.0
    """Factor s on the cosines."""
    temperature: float = 10.0
    """Temperature T of the two distributions."""

    def check(self, section: str) -> None:
        """Raise UserError naming `section` for a value out of range."""
        super().check(section)
        require(self.temperature > 0, f"{section}.temperature", self.temperature, "a number above 0")


@dataclass(frozen=True)
class NounConfig(TermConfig):
    """How the nouns of proposals become texts and weights (docs/method/hd_ovd.md, eqs. 11, 12 and 23)."""

    noun_weight: Literal["fixed", "fitted"] = "fixed"
    """Constants of the weight of a noun (eq. 12): the three options below, or those that the nouns' column
    holds, which were fitted to its teacher."""
    s0: float = 0.31
    """Cosine of crop and noun at which the weight is half of w_max. The defaults belong to ViT-B/32 with
    DetPro's prompts."""
    s_delta: float = 0.026
    """Width of the weight's slope."""
    w_max: float = 1.3
    """Largest weight."""
    repeated_nouns: Literal["column", "positives", "separate"] = "column"
    """Decision. A noun of several proposals. "column": one column, the label of all of them; "positives": a
    column each, all of which are right for all of them; "separate": a column each, wrong for the others, as
    released."""
    base_nouns: Literal["drop", "merge", "separate"] = "drop"
    """Decision. A noun that is a base concept. "drop": it gets no column and weight 0; "merge": its label is
    the base concept; "separate": it is a noun like others, as released."""

    def check(self, section: str) -> None:
        """Raise UserError naming `section` for a value out of range."""
        super().check(section)
        require(self.s_delta > 0, f"{section}.s_delta", self.s_delta, "a number above 0")
        at_least(section, self, 0, "w_max")


@dataclass(frozen=True)
class NovelAwareClassesConfig(NounConfig):
    """Classification over base texts, the batch's nouns and a background (docs/method/hd_ovd.md, eqs. 22 to
    28)."""

    heads: ClassVar[tuple[str, ...]] = ("text_projector",)
    """The text projector."""

    scale: float = 50.0
    """Factor on the cosines."""
    gate: float = 0.4
    """A matched region counts if its IoU with its box is at least this; 0 counts all."""
    background_gate: float = 0.7
    """A region without a pair is no background if its IoU with an object or proposal is above this; 1 takes
    all as background."""
    background_avoids: Literal["distilled", "all"] = "distilled"
    """Decision. Proposals that background_gate looks at: those that are distilled, as released, or all of
    the photo."""
    background_weight: float = 0.5
    """Weight of a region without a pair."""
    negatives: Literal["image", "rank", "world"] = "rank"
    """Decision. Nouns in the bank of an image: its own, those of all images of the rank, as released, or of
    all ranks."""
    bank: int = 0
    """Base concepts in the bank of a photo: those of its objects and nouns, then others up to this number,
    drawn in proportion to the square root of how many photos of the run showed them so far; 0 takes all."""
    divisor: Literal["objects", "regions"] = "objects"
    """Decision. Divide by the annotated objects (eqs. 26 and 27), or by the regions of weight above 0 (eq.
    28)."""

    def check(self, section: str) -> None:
        """Raise UserError naming `section` for a value out of range."""
        super().check(section)
        at_least(section, self, 0, "scale", "background_weight", "bank")
        fraction(section, self, "gate", "background_gate")


@dataclass(frozen=True)
class TextRelationConfig(NounConfig):
    """Relations and contrast of the text-space relation head (docs/method/hd_ovd.md, eqs. 29 to 36)."""

    heads: ClassVar[tuple[str, ...]] = ("relation_head",)
    """The relation head."""

    weight: float = 0.0
    """Factor on the relation loss (eq. 35); 0 turns the term off."""
    contrast_weight: float = 0.5
    """Factor on the contrast (eq. 36)."""
    scale: float = 5.0
    """Factor on the cosines of the relation loss."""
    temperature: float = 10.0
    """Temperature T of the relation loss."""
    contrast_scale: float = 20.0
    """Factor on the cosines of the contrast."""
    decay: float = 0.9999
    """Largest decay of the prototypes (eq. 32)."""
    ramp: float = 2000.0
    """Updates over which the decay rises."""
    counts: Literal["class", "shared"] = "class"
    """Decision. Updates that the decay counts: those of the class, or those of the layer, as released."""
    negatives: Literal["rank", "world"] = "rank"
    """Decision. Objects and proposals of the rank, as released, or of all ranks."""

    def check(self, section: str) -> None:
        """Raise UserError naming `section` for a value out of range."""
        super().check(section)
        at_least(section, self, 0, "contrast_weight", "scale", "contrast_scale")
        require(self.temperature > 0, f"{section}.temperature", self.temperature, "a number above 0")
        require(self.ramp > 0, f"{section}.ramp", self.ramp, "a number above 0")
        fraction(section, self, "decay")


@dataclass(frozen=True)
class ImageContrastConfig(TermConfig):
    """Contrast of whole images with the teacher's, with queues (docs/method/hd_ovd.md, eq. 39)."""

    heads: ClassVar[tuple[str, ...]] = ("image_head",)
    """The image head."""

    scale: float = 20.0
    """Factor on the cosines."""
    queue: int = 512
    """Past images that are further columns, over all ranks; 0 for none."""
    negatives: Literal["rank", "world"] = "rank"
    """Decision. Images that an image is compared with, besides the queue: those of its rank, as released, or
    of all ranks."""

    def check(self, section: str) -> None:
        """Raise UserError naming `section` for a value out of range."""
        super().check(section)
        at_least(section, self, 0, "scale", "queue")


TERM_SECTIONS: dict[str, type[TermConfig]] = {
    "region_contrast": RegionContrastConfig,
    "instance_contrast": InstanceContrastConfig,
    "instance_relation": InstanceRelationConfig,
    "novel_aware_classes": NovelAwareClassesConfig,
    "text_relation": TextRelationConfig,
    "image_contrast": ImageContrastConfig,
}
"""Term -> its section; the options are named `terms.TERM.OPTION`."""


def default_terms() -> dict[str, TermConfig]:
    """Return every term of the table with its default options."""
    return {name: section() for name, section in TERM_SECTIONS.items()}
