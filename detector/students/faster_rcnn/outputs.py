"""What passes between the parts of Faster R-CNN: plain dataclasses of tensors.

Shape legend: B images, A anchors of all levels, N RoIs, d width of the pyramid.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from cckt.detector.students.contract import StudentOutput


@dataclass(frozen=True)
class RpnOutput:
    """Scores and codes of all anchors."""

    anchors: Tensor
    """(A, 4) float32 xyxy in pixels."""
    logits: Tensor
    """(B, A) float32; MASKED where the cell of the anchor is in the padding."""
    codes: Tensor
    """(B, A, 4) float32 codes of boxes relative to the anchors."""


@dataclass(frozen=True)
class EncodedRegions:
    """Everything that needs no concepts: pyramid, RPN, and its best boxes."""

    pyramid: list[Tensor]
    """(B, d, h, w) of every level."""
    sizes: Tensor
    """(B, 2) float32, width and height of the unpadded images in pixels."""
    rpn: RpnOutput
    boxes: Tensor
    """(B, N, 4) float32 xyxy in pixels, best first; no gradient flows into them."""
    scores: Tensor
    """(B, N) float32 logits of the RPN."""
    kept: Tensor
    """(B, N) bool: a box, not padding."""
    image: Tensor | None = None
    """(B, D) float32 unit embeddings of the images, in training."""


@dataclass(frozen=True)
class RoiOutput(StudentOutput):
    """The output of the RoI head, and what its losses need."""

    rois: Tensor | None = None
    """(B, N, 4) float32 xyxy in pixels: the RoIs before their boxes are refined."""
    codes: Tensor | None = None
    """(B, N, 4) float32 codes of the refined boxes relative to the RoIs."""
    sizes: Tensor | None = None
    """(B, 2) float32, width and height of the unpadded images in pixels."""
    rpn: RpnOutput | None = None
