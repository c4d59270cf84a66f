"""From the answer of the detector to detections (METHOD.md section 5, Inference). No NMS unless asked for.

Shape legend: B photos, N queries, C concepts, D teacher width, K detections of a photo.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision.ops import batched_nms

from cckt.cache_builder.presence import Rows
from cckt.detector.config.config import InferenceConfig
from cckt.detector.students.boxes import to_xyxy
from cckt.detector.students.contract import StudentOutput

POOL = 10
"""Times as many candidates as detections enter the search for duplicates."""
SURE = 0.01
"""Priors weigh no more than 99 to 1."""
TINY = 1e-12
"""No score is nearer to 0 or 1 when its odds are taken."""


@dataclass(frozen=True)
class Detections:
    """The detections of one photo, best first."""

    scores: Tensor
    """(K,) float32 in [0, 1]."""
    concepts: Tensor
    """(K,) int64, rows of the vocabulary that was scored."""
    boxes_xyxy: Tensor
    """(K, 4) float32, pixels of the original photo, clipped to it."""

    def __len__(self) -> int:
        return int(self.scores.shape[0])


def scores_as(
    inference: InferenceConfig,
    output: StudentOutput,
    text: Tensor,
    tau: float,
    present: Sequence[Rows] | None,
    priors: npt.NDArray[np.float32] | None,
) -> Tensor:
    """(B, N, C) scores of the last layer as a config asks for them.

    present: of each photo the rows of the concepts that it was asked for, needed where the config keeps to
    these; priors: (B, C) probabilities that a photo shows a concept, None where nobody said anything.
    """
    device, allowed, odds = text.device, None, None
    if inference.restrict_to_present:
        assert present is not None, "nothing says what to keep to"
        allowed = torch.zeros(len(present), len(text), dtype=torch.bool)
        for photo, concepts in enumerate(present):
            allowed[photo, torch.from_numpy(concepts)] = True
        allowed = allowed.to(device)
    if priors is not None and inference.prior_weight:
        odds = prior_odds(torch.from_numpy(priors), inference.prior_weight).to(device)
    return score(output, text, tau, inference.classification, allowed, odds, inference.softmax)


def similarity_probability(region: Tensor, text: Tensor, tau: float) -> Tensor:
    """Eq. 4, sigma(cos / tau). region: (..., D) unit, text: (C, D) unit. Returns (..., C)."""
    with torch.autocast(region.device.type, enabled=False):
        return (region.float() @ text.float().t() / tau).sigmoid()


def score(
    output: StudentOutput,
    text: Tensor,
    tau: float,
    classification: Literal["similarity", "head", "product"],
    present: Tensor | None = None,
    odds: Tensor | None = None,
    softmax: bool = False,
) -> Tensor:
    """(B, N, C) scores of the last layer.

    "similarity": eq. 4; "head": the class head's probability; "product": their geometric mean.
    present: (B, C) bool, concepts that the priors allow; the others score 0. None allows all.
    odds: (B, C) log-odds added to those of the score, such as `prior_odds`; None adds nothing.
    softmax: multiply each score by its share among the concepts, the softmax of the log-odds: a box that
    looks most like one word says little for the words beside it. A single concept's share is 1.
    """
    parts = []
    if classification in ("similarity", "product"):
        parts.append(similarity_probability(output.region[-1], text, tau))
    if classification in ("head", "product"):
        parts.append(output.logits[-1].float().sigmoid())
    result = parts[0] if len(parts) == 1 else (parts[0] * parts[1]).sqrt()
    if odds is not None or softmax:
        # In double, and within 1e-12 of 1: a confident score is within 1e-6 of it, where float32 leaves ties.
        logits = result.double().clamp(TINY, 1 - TINY).logit()
        if odds is not None:
            logits = logits + odds[:, None].double()
        share = logits.softmax(-1) if softmax else 1.0
        result = (logits.sigmoid() * share).to(result.dtype)
    return result if present is None else result * present[:, None]


def prior_odds(probabilities: Tensor, weight: float) -> Tensor:
    """`weight` times the log-odds of priors: what a photo says of a concept before any box is looked at.

    Added to the log-odds of the score this makes the product of two experts. probabilities: (B, C) in [0, 1],
    kept SURE away from 0 and 1, so that no prior can rule a find in or out; NaN says nothing.
    """
    doubted = torch.nan_to_num(probabilities.float(), nan=0.5).clamp(SURE, 1 - SURE)
    return weight * doubted.logit()


def top_detections(
    scores: Tensor,
    boxes: Tensor,
    sizes: Sequence[tuple[int, int]] | Tensor,
    top: int,
    nms: float = 0.0,
) -> list[Detections]:
    """The best `top` of queries x concepts for each photo.

    scores: (B, N, C); boxes: (B, N, 4) cxcywh normalised; sizes: (B, 2) original height and width in pixels.
    A query may stand in several detections, with other concepts. nms: above 0, of detections of one concept
    whose boxes overlap by more than this IoU only the best stays, among the best POOL times `top`.
    """
    photos, queries, concepts = scores.shape
    pool = top * POOL if nms else top
    values, places = scores.flatten(1).topk(min(pool, queries * concepts), dim=1)
    limits = (
        torch.as_tensor(sizes, device=boxes.device, dtype=torch.float32)
        .view(photos, 1, 2)
        .flip(-1)
        .repeat(1, 1, 2)
    )
    pixels = torch.minimum((to_xyxy(boxes.float()) * limits).clamp(min=0), limits)
    chosen = pixels.gather(1, (places // max(concepts, 1))[..., None].expand(-1, -1, 4))
    found = [Detections(values[b].float(), places[b] % max(concepts, 1), chosen[b]) for b in range(photos)]
    return [without_duplicates(one, nms, top) for one in found] if nms else found


def without_duplicates(found: Detections, overlap: float, top: int) -> Detections:
    """The best `top` after non-maximum suppression within each concept."""
    kept = batched_nms(found.boxes_xyxy, found.scores, found.concepts, overlap)[:top]
    return Detections(found.scores[kept], found.concepts[kept], found.boxes_xyxy[kept])
