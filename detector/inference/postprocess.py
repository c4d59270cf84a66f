"""Turn model output into scored detections (docs/method/cckt_det.md, section 8).

Shapes: B images, N queries, C concepts, D teacher width, K detections of an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional
from torchvision.ops import batched_nms
from torchvision.ops import nms as suppress_overlaps

from cckt.cache_builder.presence import Rows
from cckt.detector.config.config import InferenceConfig
from cckt.detector.inference.fusion import Fusion
from cckt.detector.students.boxes import to_xyxy
from cckt.detector.students.contract import StudentOutput

NMS_CANDIDATES = 10
"""Candidates that enter non-maximum suppression, as a multiple of the detections kept."""
SAME_OBJECT = 0.6
"""IoU above which two detections show the same object, whatever their concepts (`best_per_object`)."""
PRIOR_MARGIN = 0.01
"""Priors are clamped to [PRIOR_MARGIN, 1 - PRIOR_MARGIN], so their odds are at most 99 to 1."""
SCORE_MARGIN = 1e-12
"""Scores are clamped to [SCORE_MARGIN, 1 - SCORE_MARGIN] before their log-odds are taken."""


@dataclass(frozen=True)
class ImageDetections:
    """The K detections of one image, highest score first."""

    scores: Tensor
    """(K,) float32 in [0, 1]."""
    concepts: Tensor
    """(K,) int64, rows of the vocabulary."""
    boxes_xyxy: Tensor
    """(K, 4) float32, pixels of the original image, clipped to it."""

    def __len__(self) -> int:
        return int(self.scores.shape[0])


def configured_scores(
    inference: InferenceConfig,
    output: StudentOutput,
    text: Tensor,
    tau: float,
    present: Sequence[Rows] | None,
    priors: npt.NDArray[np.float32] | None,
    base: npt.NDArray[np.bool_] | None = None,
) -> Tensor:
    """Return `class_scores` (B, N, C) with the options of an inference config.

    present: for each image the rows of its present concepts; required by `restrict_to_present`. priors:
    (B, C) probabilities that an image contains a concept; None adds no prior. base: (C,) concepts that the
    run was trained on; required by the classification "fusion".
    """
    device, allowed, log_odds = text.device, None, None
    if inference.restrict_to_present:
        assert present is not None, "restrict_to_present: expected present concepts, found None"
        allowed = torch.zeros(len(present), len(text), dtype=torch.bool)
        for image, concepts in enumerate(present):
            allowed[image, torch.from_numpy(concepts)] = True
        allowed = allowed.to(device)
    if priors is not None and inference.prior_weight:
        log_odds = prior_log_odds(torch.from_numpy(priors), inference.prior_weight).to(device)
    fusion = None
    if inference.classification == "fusion":
        assert base is not None, "classification fusion: expected the base concepts, found None"
        fusion = Fusion(inference, torch.from_numpy(base).to(device))
    return class_scores(
        output, text, tau, inference.classification, allowed, log_odds, inference.softmax, fusion
    )


def similarity_probability(region: Tensor, text: Tensor, tau: float) -> Tensor:
    """Probability sigma(cos / tau) that a region shows a concept (docs/method/cckt_det.md, eq. 12).

    region: (..., D) unit, text: (C, D) unit. Returns (..., C) float32.
    """
    with torch.autocast(region.device.type, enabled=False):
        return (region.float() @ text.float().t() / tau).sigmoid()


def class_scores(
    output: StudentOutput,
    text: Tensor,
    tau: float,
    classification: Literal["similarity", "head", "product", "fusion"],
    present: Tensor | None = None,
    log_odds: Tensor | None = None,
    softmax: bool = False,
    fusion: Fusion | None = None,
) -> Tensor:
    """Return (B, N, C) scores of the last decoder layer (docs/method/cckt_det.md, eq. 24).

    classification: "similarity" is eq. 12, "head" the probability of the class head, "product" the geometric
    mean of both, "fusion" that of `fusion` (docs/method/hd_ovd.md, eq. 54). present: (B, C) bool; the score
    of a concept that is False becomes 0. None keeps all. log_odds: (B, C), added to the log-odds of every
    score, such as `prior_log_odds` (eq. 29); None adds nothing. softmax: multiply each score by the softmax
    of the log-odds over the concepts (eq. 30), which lowers concepts that are similar to the best one. With a
    single concept the softmax is 1. Regions that only fill the tensor score 0.
    """
    parts = []
    if classification in ("similarity", "product"):
        parts.append(similarity_probability(output.region[-1], text, tau))
    if classification in ("head", "product"):
        parts.append(output.logits[-1].float().sigmoid())
    if classification == "fusion":
        assert fusion is not None, "classification fusion: expected its options, found None"
        parts.append(fusion.scores(output, text))
    result = parts[0] if len(parts) == 1 else (parts[0] * parts[1]).sqrt()
    if log_odds is not None or softmax:
        # float64, because confident scores are within 1e-6 of 1, where float32 produces ties.
        logits = result.double().clamp(SCORE_MARGIN, 1 - SCORE_MARGIN).logit()
        if log_odds is not None:
            logits = logits + log_odds[:, None].double()
        share = logits.softmax(-1) if softmax else 1.0
        result = (logits.sigmoid() * share).to(result.dtype)
    if output.kept is not None:
        result = result * output.kept[..., None]
    return result if present is None else result * present[:, None]


def prior_log_odds(probabilities: Tensor, weight: float) -> Tensor:
    """Return `weight` times the log-odds of priors (docs/method/cckt_det.md, eq. 29).

    probabilities: (B, C) in [0, 1], clamped by PRIOR_MARGIN, so that no prior decides a score by itself. NaN
    counts as 0.5, which adds 0.
    """
    clamped = torch.nan_to_num(probabilities.float(), nan=0.5).clamp(PRIOR_MARGIN, 1 - PRIOR_MARGIN)
    return weight * clamped.logit()


def top_detections(
    scores: Tensor,
    boxes: Tensor,
    sizes: Sequence[tuple[int, int]] | Tensor,
    top: int,
    nms: float = 0.0,
) -> list[ImageDetections]:
    """Return the `top` highest scores of each image over all pairs of query and concept.

    scores: (B, N, C); boxes: (B, N, 4) cxcywh normalised; sizes: (B, 2) original height and width in pixels.
    A query can give several detections, with different concepts. nms: IoU threshold of non-maximum
    suppression within each concept, applied to the NMS_CANDIDATES * `top` highest scores; 0 disables it.
    """
    images, queries, concepts = scores.shape
    pool = top * NMS_CANDIDATES if nms else top
    values, places = scores.flatten(1).topk(min(pool, queries * concepts), dim=1)
    pixels = pixel_boxes(boxes, sizes)
    chosen = pixels.gather(1, (places // max(concepts, 1))[..., None].expand(-1, -1, 4))
    found = [
        ImageDetections(values[b].float(), places[b] % max(concepts, 1), chosen[b]) for b in range(images)
    ]
    return [suppress_duplicates(one, nms, top) for one in found] if nms else found


def suppress_duplicates(found: ImageDetections, overlap: float, top: int) -> ImageDetections:
    """Return the best `top` detections after non-maximum suppression within each concept."""
    kept = batched_nms(found.boxes_xyxy, found.scores, found.concepts, overlap)[:top]
    return ImageDetections(found.scores[kept], found.concepts[kept], found.boxes_xyxy[kept])


def best_per_object(
    scores: Tensor,
    boxes: Tensor,
    sizes: Sequence[tuple[int, int]] | Tensor,
    top: int,
    requested: int,
    nms: float = 0.0,
) -> list[ImageDetections]:
    """Return the `top` highest scores of each image, with one detection per object.

    scores, boxes, sizes, nms: as for `top_detections`. The first `requested` of the C concepts are those of
    the user; the others are rivals. A query counts only with its best concept; of detections whose IoU is
    above SAME_OBJECT only the best is kept. Detections of rivals are dropped at the end.
    """
    pixels, found = pixel_boxes(boxes, sizes), []
    values, concepts = scores.max(-1)
    # A region suppresses only regions with lower scores: those below the last requested one have no effect.
    asked = functional.pad(values.masked_fill(concepts >= requested, torch.inf), (0, 1), value=torch.inf)
    relevant = values >= asked.amin(1, keepdim=True)
    for image in range(len(scores)):
        some = relevant[image]
        one = ImageDetections(values[image, some].float(), concepts[image, some], pixels[image, some])
        if nms:
            one = suppress_duplicates(one, nms, len(one))
        kept = suppress_overlaps(one.boxes_xyxy, one.scores, SAME_OBJECT)
        kept = kept[one.concepts[kept] < requested][:top]
        found.append(ImageDetections(one.scores[kept], one.concepts[kept], one.boxes_xyxy[kept]))
    return found


def pixel_boxes(boxes: Tensor, sizes: Sequence[tuple[int, int]] | Tensor) -> Tensor:
    """Return (B, N, 4) float32 xyxy in pixels, clipped to the image, of cxcywh boxes in fractions."""
    limits = torch.as_tensor(sizes, device=boxes.device, dtype=torch.float32)
    limits = limits.view(len(boxes), 1, 2).flip(-1).repeat(1, 1, 2)
    return torch.minimum((to_xyxy(boxes.float()) * limits).clamp(min=0), limits)
