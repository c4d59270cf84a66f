"""Options of priors and of what becomes of a detector's answer; `config.py` joins them with others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cckt.detector.config.checks import at_least, fraction


@dataclass(frozen=True)
class PriorConfig:
    """Which concepts count as present in a photo at test (METHOD.md section 3)."""

    source: Literal["clip", "mllm", "oracle", "corrupted", "none"] = "clip"
    """Which priors column; "oracle" is the annotations, an upper bound; "corrupted" the annotations with a
    fifth withheld and two wrong concepts added on average, to see how far a detector leans on them; "none"
    gives no guidance."""
    rho: float = 0.70
    """Smallest probability that counts as present."""
    limit: int = 6
    """Most present concepts of a photo: 6 for COCO, 12 for LVIS."""
    fill: Literal["none", "random", "top"] = "none"
    """Decision. When fewer than `limit` pass: "none" leaves it so, "random" adds random concepts (the paper),
    "top" the best below rho."""

    def __post_init__(self) -> None:
        fraction("prior", self, "rho")
        at_least("prior", self, 0, "limit")

    @property
    def cached(self) -> bool:
        """Whether a column of priors is read: the other sources are the annotations, or nothing."""
        return self.source in ("clip", "mllm")


@dataclass(frozen=True)
class InferenceConfig:
    """From outputs to detections (METHOD.md section 5, Inference)."""

    classification: Literal["similarity", "head", "product"] = "similarity"
    """The score of (query, concept): similarity probability, class head's, or geometric mean of both."""
    top: int = 100
    """Detections kept of a photo: 100 for COCO, 300 for LVIS."""
    restrict_to_present: bool = False
    """True drops the concepts that the priors rule out."""
    nms: float = 0.0
    """Beyond the paper: of one concept's detections that overlap by more than this IoU the best stays. For
    detectors trained in minutes, which have not learnt to say everything once; 0, the paper's, drops none."""
    prior_weight: float = 0.0
    """Beyond the paper: this many times the priors' log-odds are added to those of every score, so that a
    word the photo speaks for wins over its look-alikes. 0, the paper's, leaves scores alone."""
    softmax: bool = False
    """Beyond the paper: each score is multiplied by its share among the concepts (softmax of the log-odds),
    so that what looks most like a base word is no find of its novel look-alike. False, the paper's, scores
    each concept by itself."""
    batch: int = 8
    """Photos at a time."""

    def __post_init__(self) -> None:
        at_least("inference", self, 1, "top", "batch")
        at_least("inference", self, 0, "prior_weight")
        fraction("inference", self, "nms")
