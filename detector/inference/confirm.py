"""Confirm detections: the teacher embeds the crops of the best boxes, which decides their concepts.

The detector room loads no teacher: a `CropGuide` is given, as a `Guide` is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torchvision.ops import nms

from cckt.cache_builder.base.errors import UserError
from cckt.detector.inference.postprocess import SAME_OBJECT, pixel_boxes
from cckt.detector.inference.vocabulary import Floats

MOST = 1000
"""Largest number of boxes of an image that can be confirmed."""


class CropGuide(Protocol):
    """A teacher as confirmation uses it. logit_scale, logit_bias: its logit is scale * cos + bias."""

    logit_scale: float
    logit_bias: float

    def crops(self, photos: Sequence[Image.Image], boxes: Sequence[Floats]) -> list[npt.NDArray[np.float32]]:
        """Return for each image the (K, D) unit embeddings of its (K, 4) xyxy boxes in pixels."""


@dataclass(frozen=True)
class Confirmation:
    """A teacher, and the number of boxes per image that it confirms. Raises UserError for a bad number."""

    guide: CropGuide
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.count <= MOST:
            raise UserError(
                f"--confirm {self.count}: expected a number of boxes per photo from 1 to {MOST}, such as 30."
            )


def confirmation_by(guide: object | None, count: int) -> Confirmation | None:
    """Return a confirmation of `count` boxes by the teacher of a guide; None for 0.

    Raises UserError without a guide, for one that embeds no crops, and for a bad number.
    """
    if not count:
        return None
    if not hasattr(guide, "crops"):
        raise UserError(
            "--confirm needs the run's teacher, which looks at crops, and none is given; give --teacher."
        )
    return Confirmation(cast(CropGuide, guide), count)


class CropsOfBatch:
    """Teacher embeddings of the boxes of a batch; each is computed once, when it is first needed.

    boxes: (B, N, 4) cxcywh in fractions of the B photos.
    """

    def __init__(self, confirmation: Confirmation, photos: Sequence[Image.Image], boxes: Tensor) -> None:
        self.guide, self.count = confirmation.guide, confirmation.count
        self._photos = photos
        self.boxes_xyxy = pixel_boxes(boxes, [(photo.height, photo.width) for photo in photos]).cpu()
        self._known: list[dict[int, npt.NDArray[np.float32]]] = [{} for _ in photos]

    def of(self, queries: Sequence[Sequence[int]]) -> list[npt.NDArray[np.float32]]:
        """Return for each image the (K, D) embeddings of the boxes of its queries; K may be 0."""
        pairs = zip(queries, self._known, strict=True)
        missing = [[one for one in wanted if one not in known] for wanted, known in pairs]
        boxes = [self.boxes_xyxy[image][wanted].numpy() for image, wanted in enumerate(missing)]
        if any(missing):
            for known, wanted, rows in zip(
                self._known, missing, self.guide.crops(self._photos, boxes), strict=True
            ):
                known |= dict(zip(wanted, rows, strict=True))
        return [
            np.stack([known[one] for one in wanted]) if wanted else np.zeros((0, 0), np.float32)
            for wanted, known in zip(queries, self._known, strict=True)
        ]


def confirmed_scores(scores: Tensor, text: Tensor, crops: CropsOfBatch) -> Tensor:
    """Return (B, N, C) scores by the teacher of the best boxes, 0 for all others.

    scores: (B, N, C) of the detector; text: (C, D) unit. The score of a box and a concept is the teacher's
    probability, the softmax over the concepts times the sigmoid of its logits, weighted by the square root of
    the detector's best score of the box (docs/method/cckt_det.md, eq. 32). Per image the `count` boxes with
    the highest best scores are taken, of boxes whose IoU is above SAME_OBJECT only the best. A concept with
    score 0, which `restrict_to_present` drops, keeps it.
    """
    best, result = scores.amax(-1), torch.zeros_like(scores)
    chosen = []
    for boxes, image in zip(crops.boxes_xyxy, best.float().cpu(), strict=True):
        kept = nms(boxes, image, SAME_OBJECT)
        chosen.append(kept[image[kept] > 0][: crops.count].tolist())
    for at, (queries, embedded) in enumerate(zip(chosen, crops.of(chosen), strict=True)):
        if not queries:
            continue
        cosines = torch.from_numpy(embedded).to(text.device) @ text.float().t()
        logits = cosines * crops.guide.logit_scale + crops.guide.logit_bias
        sure = logits.softmax(-1) * logits.sigmoid() * best[at, queries].float().sqrt()[:, None]
        result[at, queries] = torch.where(scores[at, queries] > 0, sure.to(scores.dtype), 0)
    return result
