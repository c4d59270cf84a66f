"""Options of single students. Those that several students share are in `model.py`."""

from __future__ import annotations

from dataclasses import dataclass

from cckt.detector.config.checks import at_least, fraction, require


@dataclass(frozen=True)
class FasterRcnnConfig:
    """Faster R-CNN (docs/method/hd_ovd.md, section 7.2); sizes are in pixels of the resized photo.

    It uses these options of the section `model`: backbone, strides, levels, hidden and class_embedding; and
    loss.loss_class, the weight of its own classification.
    """

    anchor_scale: float = 8.0
    """Side of a square anchor, in cells of its level."""
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Ratios height / width of the anchors of a cell."""
    rpn_positive_iou: float = 0.7
    """IoU from which an anchor shows an object; the best anchors of an object always do."""
    rpn_negative_iou: float = 0.3
    """IoU below which an anchor is background."""
    rpn_samples: int = 256
    """Anchors per photo in the losses of the RPN."""
    rpn_positives: float = 0.5
    """Largest share of positives among them."""
    rpn_nms: float = 0.7
    """IoU above which only the better of two boxes of a level is kept."""
    train_boxes_per_level: int = 2000
    """Best boxes of a level before NMS, in training."""
    train_boxes: int = 1000
    """Best boxes of all levels after NMS, in training."""
    boxes_per_level: int = 1000
    """Best boxes of a level before NMS, in evaluation."""
    boxes: int = 1000
    """Best boxes of all levels after NMS, in evaluation."""
    rois: int = 512
    """RoIs per photo in training, drawn from the boxes of the RPN, of the objects and of the proposals."""
    roi_positives: float = 0.25
    """Largest share of positives among them."""
    roi_iou: float = 0.5
    """IoU from which an RoI shows an object or proposal."""
    roi_cells: int = 7
    """Cells per side that RoIAlign reads."""
    roi_side: float = 56.0
    """Largest side of an RoI (root of its area) that is read from the finest level, halved; every doubling of
    the side takes the next coarser level."""
    head_width: int = 1024
    """Width of the two shared layers of the RoI head."""
    loss_rpn_class: float = 1.0
    """Weight of the cross-entropy of the anchors."""
    loss_rpn_box: float = 1.0
    """Weight of the L1 distance of the box codes of positive anchors."""
    loss_box: float = 1.0
    """Weight of the L1 distance of the box codes of positive RoIs."""

    def __post_init__(self) -> None:
        name = "faster_rcnn"
        at_least(name, self, 1, "rpn_samples", "train_boxes_per_level", "train_boxes", "boxes_per_level")
        at_least(name, self, 1, "boxes", "rois", "roi_cells", "head_width")
        at_least(name, self, 0, "loss_rpn_class", "loss_rpn_box", "loss_box")
        fraction(name, self, "rpn_positive_iou", "rpn_negative_iou", "rpn_positives", "rpn_nms")
        fraction(name, self, "roi_positives", "roi_iou")
        for option in ("anchor_scale", "roi_side"):
            require(getattr(self, option) > 0, f"{name}.{option}", getattr(self, option), "a number above 0")
        ratios = self.anchor_ratios
        good = len(ratios) > 0 and min(ratios) > 0
        require(good, f"{name}.anchor_ratios", ratios, "one or more ratios above 0")
        require(
            self.rpn_negative_iou <= self.rpn_positive_iou,
            f"{name}.rpn_negative_iou",
            self.rpn_negative_iou,
            f"at most rpn_positive_iou {self.rpn_positive_iou}",
        )


@dataclass(frozen=True)
class AdaMixerConfig:
    """AdaMixer with dense first boxes (docs/method/hd_ovd.md, section 7.1).

    It uses these options of the section `model`: backbone, strides, levels, hidden, heads, ffn, dropout,
    decoder_layers (its stages), queries and class_embedding. Stages sample the levels of `model.strides`;
    dense boxes come from all levels but the finest.
    """

    groups: int = 4
    """Groups of channels, each with its own points and mixing."""
    points_in: int = 32
    """Points that a group samples."""
    points_out: int = 128
    """Points that the mixing of a group returns."""
    point_scale: float = -1.0
    """Initial offset of the scale z of the points from that of their box: -1 reads each box from the level of
    half its size (eq. 45)."""
    dense_per_level: int = 1000
    """Best dense boxes of a level before NMS."""
    dense_nms: float = 0.7
    """IoU above which only the better of two dense boxes is kept."""
    dense_candidates: int = 8
    """Points per object in the one-to-many assignment of the auxiliary head."""
    dense_scale: float = 1.0
    """Initial factor on the cosine of the dense objectness (gamma of eq. 40); 1 as released. It is learned,
    but slowly: a training of few steps needs about 10."""
    loss_dense_class: float = 1.0
    """Weight of the objectness of the dense boxes (eq. 42)."""
    loss_dense_giou: float = 2.0
    """Weight of 1 - GIoU of the dense boxes (eq. 42)."""

    def __post_init__(self) -> None:
        name = "adamixer"
        at_least(name, self, 1, "groups", "points_in", "points_out", "dense_per_level", "dense_candidates")
        at_least(name, self, 0, "loss_dense_class", "loss_dense_giou")
        fraction(name, self, "dense_nms")
        require(self.dense_scale > 0, f"{name}.dense_scale", self.dense_scale, "a number above 0")
