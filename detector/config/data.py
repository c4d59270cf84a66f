"""Options of the photos on their way into the student: sizes, augmentation, reading, normalisation."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from cckt.detector.config.checks import at_least, at_most, fraction, require


@dataclass(frozen=True)
class DataConfig:
    """Photos and teacher embeddings as training and evaluation read them."""

    short_sides: tuple[int, ...] = (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)
    """Short sides in pixels; training draws one per photo."""
    max_side: int = 1333
    """Longest side in pixels, in training and evaluation."""
    eval_short_side: int = 800
    """Short side in pixels, in evaluation and prediction."""
    flip: float = 0.5
    """Probability of a horizontal flip."""
    flipped_crops: Literal["auto", "always", "never"] = "auto"
    """Distil a flipped photo from the flipped crops, column crops-flipped: "auto" uses the column if it
    exists."""
    jittered_crops: Literal["auto", "always", "never"] = "auto"
    """Distil an object from a random view: crops, crops-jitter-1, ...; "auto" uses the columns that exist."""
    random_crop: bool = True
    """Resize, crop at random (384 to 600 px) and resize again half of the photos, as in DETR."""
    emptied_views: Literal["keep", "redraw"] = "keep"
    """Views of a photo with objects that show none of them: "keep" trains on them, as background; "redraw"
    draws the view again, and takes the whole photo after eight draws (the authors' code skips the photo)."""
    drop_empty_photos: bool = False
    """Leave out the training photos without a box of a base concept: with OV-COCO 107,761 of 118,287 remain.
    Those left out may show novel objects. False trains on them, as background."""
    mosaic: float = 0.0
    """Beyond the paper: probability that a training photo is a mosaic of itself and three others, each in a
    quarter, as in DEIM. Targets, crops and guidance are those of all four; it has no image embedding."""
    mosaic_epochs: int = 0
    """Epochs with mosaics, from the first one on; 0: all."""
    crop_keeps_shape: bool = False
    """Crop windows with the photo's aspect ratio: photos of one size keep one size, and a batch has no
    padding."""
    teacher: str = ""
    """Label of the teacher to distil, if a data set holds columns of several: "vitl14" reads text-vitl14,
    crops-vitl14 and priors/clip-vitl14; "" reads the columns without a label."""
    proposals: int = 0
    """Proposals per photo that the distillation terms learn from (docs/method/hd_ovd.md, eq. 13); 0: none.
    Needs the table that `cckt cache proposals` makes, and the columns that the terms read."""
    proposals_name: str = ""
    """Label of the proposals table, if a data set holds several (`cckt cache proposals --name`)."""
    min_proposal_side: float = 32.0
    """Shortest side, in pixels of the resized photo, that a proposal must exceed."""
    repeated_proposals: bool = False
    """Decision. Also learn from proposals that repeat an annotated object; False leaves them out, since the
    object already has a region."""
    workers: int = 4
    """Processes that read photos; 0 reads in the training process."""
    cache_photos: int = 2048
    """MiB of memory for decoded photos. If all photos fit, they are kept and no worker is started; 0 keeps
    none."""
    decode: Literal["cpu", "cuda"] = "cpu"
    """Device that decodes and resizes training JPEGs: the workers, or the GPU (nvJPEG) if the workers are too
    few to keep it busy. Photos that fit in memory are always decoded on the CPU."""
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    """Mean of each channel (RGB in [0, 1]), subtracted first."""
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    """Standard deviation of each channel, divided by afterwards."""

    def __post_init__(self) -> None:
        require(
            len(self.short_sides) > 0 and min(self.short_sides) > 0,
            "data.short_sides",
            self.short_sides,
            "one or more sizes in pixels",
        )
        at_least("data", self, 1, "eval_short_side")
        require(
            self.max_side >= max(self.short_sides),
            "data.max_side",
            self.max_side,
            "at least the largest short side",
        )
        fraction("data", self, "flip", "mosaic")
        require(
            re.fullmatch("[a-z0-9_]*", self.teacher) is not None,
            "data.teacher",
            self.teacher,
            "the label of a teacher's columns: lower-case letters, digits and _",
        )
        require(
            re.fullmatch("[a-z0-9_]*", self.proposals_name) is not None,
            "data.proposals_name",
            self.proposals_name,
            "the label of a proposals table: lower-case letters, digits and _",
        )
        at_most("data", self, 1000, "workers")
        at_least("data", self, 0, "workers", "cache_photos", "proposals", "min_proposal_side")
        at_least("data", self, 0, "mosaic_epochs")
        require(not (self.mosaic and self.proposals), "data.mosaic", self.mosaic, "0 with data.proposals")
        for name in ("mean", "std"):
            require(len(getattr(self, name)) == 3, f"data.{name}", getattr(self, name), "three numbers")
        require(min(self.std) > 0, "data.std", self.std, "numbers above 0")
