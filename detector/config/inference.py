"""Options of the priors, and of the step from network outputs to detections."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cckt.cache_builder.base.constants import LIMIT, RHO
from cckt.detector.config.checks import at_least, fraction


@dataclass(frozen=True)
class PriorConfig:
    """Which concepts count as present in a photo in evaluation (docs/method/cckt_det.md, eq. 7)."""

    source: Literal["clip", "mllm", "oracle", "corrupted", "none"] = "clip"
    """Source of the priors: "clip" and "mllm" are columns; "oracle" is the annotations, an upper bound;
    "corrupted" is the annotations with a fifth dropped and two absent concepts added on average, to measure
    how much a detector depends on them; "none" gives no guidance."""
    rho: float = RHO
    """Smallest probability that counts as present."""
    limit: int = LIMIT
    """Largest number of present concepts per photo, L: 6 for COCO, 12 for LVIS."""
    fill: Literal["none", "random", "top"] = "none"
    """Decision. If fewer than `limit` pass: "none" adds nothing, "random" adds random concepts (the paper),
    "top" adds the most probable ones below rho."""

    def __post_init__(self) -> None:
        fraction("prior", self, "rho")
        at_least("prior", self, 0, "limit")

    @property
    def cached(self) -> bool:
        """Whether the source is a column; the other sources are the annotations, or nothing."""
        return self.source in ("clip", "mllm")


Classification = Literal["similarity", "head", "product", "fusion"]


@dataclass(frozen=True)
class InferenceConfig:
    """From outputs to detections (docs/method/cckt_det.md, section 8)."""

    classification: Classification = "similarity"
    """Score of a query and a concept (eq. 24): similarity probability, class head, their geometric mean, or
    the fusion of two text scores (docs/method/hd_ovd.md, eqs. 50 to 54)."""
    fusion_alpha: float = 0.35
    """Exponent of the second score for concepts that the run was trained on; 0 ignores the second score."""
    fusion_beta: float = 0.65
    """Exponent of the second score for all other concepts."""
    fusion_scale_1: float = 50.0
    """Factor on the cosines of the first score (text space and background)."""
    fusion_scale_2: float = 20.0
    """Factor on the cosines of the second score (relation head, or region embedding)."""
    fusion_second: Literal["softmax", "sigmoid"] = "softmax"
    """Second score: over all concepts, as released for AdaMixer, or of each, as for Faster R-CNN."""
    top: int = 100
    """Detections per photo: 100 for COCO, 300 for LVIS."""
    restrict_to_present: bool = False
    """Drop the concepts that the priors rule out."""
    nms: float = 0.0
    """Beyond the paper: IoU above which only the best of a concept's overlapping detections is kept. For
    detectors trained in minutes, which still detect objects twice; 0, as in the paper, keeps all."""
    prior_weight: float = 0.0
    """Beyond the paper: factor on the priors' log-odds that are added to the log-odds of every score (eq.
    29), so that a concept that the photo supports wins over similar ones; 0, as in the paper, leaves scores
    unchanged."""
    softmax: bool = False
    """Beyond the paper: multiply each score by its softmax share among the concepts (eq. 30), so that a box
    that looks most like a base concept is no detection of a similar novel one. False, as in the paper, scores
    each concept independently."""
    batch: int = 8
    """Photos per forward pass."""

    def __post_init__(self) -> None:
        at_least("inference", self, 1, "top", "batch")
        at_least("inference", self, 0, "prior_weight")
        at_least("inference", self, 0, "fusion_scale_1", "fusion_scale_2")
        fraction("inference", self, "nms", "fusion_alpha", "fusion_beta")
