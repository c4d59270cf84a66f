"""The Faster R-CNN student: backbone, FPN, RPN, and a RoI head with class-agnostic boxes.

docs/method/hd_ovd.md, section 7.2. FPN, RPN head, anchors and RoIAlign are torchvision's. Shape legend: B
images, N RoIs, C concepts, D width of the teacher.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision.models.detection.faster_rcnn import TwoMLPHead

from cckt.detector.config.checks import require
from cckt.detector.config.config import Config
from cckt.detector.students.backbones.backbone import Backbone
from cckt.detector.students.backbones.fpn import FeaturePyramid, level_strides
from cckt.detector.students.contract import (
    MASKED,
    AgnosticRegions,
    DetectionLoss,
    Pairs,
    PresentText,
    Student,
)
from cckt.detector.students.faster_rcnn import criterion
from cckt.detector.students.faster_rcnn.codes import ROI_SCALES, decode
from cckt.detector.students.faster_rcnn.outputs import EncodedRegions, RoiOutput
from cckt.detector.students.faster_rcnn.rois import RoiGoals, draw_rois, read_regions
from cckt.detector.students.faster_rcnn.rpn import RegionProposer, clipped
from cckt.detector.students.first_boxes import distinct, image_sizes
from cckt.detector.students.hd_heads import ImageHead
from cckt.detector.students.heads import TextHead, UnitLinear
from cckt.detector.students.targets import PaddedTargets

PROPOSAL_NMS = 0.7
"""IoU above which only the better of two refined boxes is a proposal."""


class FasterRCNN(Student):
    """Faster R-CNN with text embeddings as classes; its regions are RoIs, on one output layer."""

    def __init__(self, config: Config, embedding_dim: int, *, pretrained: bool = True) -> None:
        super().__init__()
        model, own = config.model, config.faster_rcnn
        self.config, self.embedding_dim = config, embedding_dim
        self.recompute = False
        """In training: recompute the RoI head in the backward pass."""
        self.backbone = Backbone(model, pretrained)
        self.pyramid = FeaturePyramid(self.backbone.channels, model.levels, model.hidden)
        strides = level_strides(model.strides, model.levels)
        self.proposer = RegionProposer(own, model.hidden, strides)
        self.roi_strides = strides[: len(model.strides)]
        self.head = TwoMLPHead(model.hidden * own.roi_cells**2, own.head_width)
        self.box = nn.Linear(own.head_width, 4)
        nn.init.normal_(self.box.weight, std=0.001)
        nn.init.zeros_(self.box.bias)
        self.region = UnitLinear(own.head_width, embedding_dim)
        require(not model.relation_head, "model.relation_head", model.relation_head, "false with faster_rcnn")
        separate = model.text_projector or model.class_embedding == "own"
        self.classify = UnitLinear(own.head_width, embedding_dim) if separate else None
        self.background = nn.Parameter(torch.randn(embedding_dim)) if model.text_projector else None
        self.image_head = ImageHead(model.hidden, embedding_dim) if model.image_head else None
        self.class_head = TextHead(own.head_width, embedding_dim, own=False)

    def encode(self, images: Tensor, padding: Tensor | None) -> EncodedRegions:
        """Backbone, pyramid, RPN and its best boxes."""
        pyramid = self.pyramid(self.backbone(images))
        sizes = image_sizes(images, padding)
        rpn = self.proposer(pyramid, sizes)
        boxes, scores, kept = self.proposer.best_boxes(rpn, pyramid, sizes)
        image = None
        if self.image_head is not None and self.training:
            image = self.image_head(pyramid[: len(self.roi_strides)], padding)
        return EncodedRegions(pyramid, sizes, rpn, boxes, scores, kept, image)

    def decode(
        self,
        encoded: EncodedRegions,
        text: Tensor,
        guidance: PresentText | None,
        training: PaddedTargets | None = None,
    ) -> RoiOutput:
        """The RoI head on the best boxes; in training, on RoIs drawn from these and the boxes of `training`.

        The detector has no guidance.
        """
        rois, kept, objectness = encoded.boxes, encoded.kept, encoded.scores[None]
        if training is not None:
            goals = RoiGoals.of(training, encoded.sizes)
            rois, kept = draw_rois(rois, kept, goals, self.config.faster_rcnn)
        states = self._states(encoded, rois)
        codes, boxes = self._refined(states, rois, encoded.sizes)
        region = classes = self.region(states)
        if self.classify is not None:
            classes = self.classify(states)
        shared = region if self.config.model.class_embedding == "region" else classes
        logits = self.class_head(states, shared, text).masked_fill(~kept[..., None], MASKED)
        return RoiOutput(
            boxes[None],
            logits[None],
            region[None],
            objectness=None if training is not None else objectness,
            text_region=None if self.background is None else classes[None],
            background=self.background,
            image=encoded.image,
            kept=kept,
            rois=rois,
            codes=codes,
            sizes=encoded.sizes,
            rpn=encoded.rpn,
        )

    def region_proposals(self, encoded: EncodedRegions, text: Tensor) -> AgnosticRegions:
        """Return refined boxes and the objectness of the RPN.

        Boxes that overlap a better one, and padding, have objectness MASKED.
        """
        _, boxes = self._refined(self._states(encoded, encoded.boxes), encoded.boxes, encoded.sizes)
        corners = torch.cat([boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2], -1)
        kept = distinct(corners, encoded.scores, PROPOSAL_NMS) & encoded.kept
        return AgnosticRegions(boxes, encoded.scores.masked_fill(~kept, MASKED))

    def training_inputs(self, targets: PaddedTargets, text: Tensor) -> PaddedTargets:
        """The targets: their boxes are RoIs too."""
        return targets

    def match(self, output: RoiOutput, targets: PaddedTargets, text: Tensor) -> Pairs:
        """Assignment by IoU; an object may have several RoIs."""
        return criterion.match(output, targets, self.config)

    def detection_loss(
        self,
        output: RoiOutput,
        targets: PaddedTargets,
        pairs: Pairs,
        present: Tensor | None,
        training: PaddedTargets | None,
    ) -> DetectionLoss:
        """Losses of RPN and RoI head."""
        return criterion.detection_loss(output, targets, pairs, self.proposer, self.config)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Backbone; the rest."""
        groups: dict[str, list[nn.Parameter]] = {"backbone": [], "rest": []}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                groups["backbone" if name.startswith("backbone.") else "rest"].append(parameter)
        return groups

    def prepare_training(self, checkpoint_activations: bool) -> None:
        """channels_last makes convolutions faster; the RoI head holds most activations."""
        self.prepare_inference()
        self.recompute = checkpoint_activations

    def prepare_inference(self) -> None:
        """channels_last, as in training."""
        for part in (self.backbone, self.pyramid, self.proposer):
            part.to(memory_format=torch.channels_last)

    def _states(self, encoded: EncodedRegions, rois: Tensor) -> Tensor:
        """Return (B, N, head_width) of RoIs (B, N, 4)."""
        if self.recompute and torch.is_grad_enabled():
            out: Tensor = checkpoint(self._read, encoded.pyramid, rois, use_reentrant=False)
            return out
        return self._read(encoded.pyramid, rois)

    def _read(self, pyramid: list[Tensor], rois: Tensor) -> Tensor:
        own, levels = self.config.faster_rcnn, len(self.roi_strides)
        read = read_regions(pyramid[:levels], self.roi_strides, rois, own.roi_cells, own.roi_side)
        states: Tensor = self.head(read)
        return states.view(*rois.shape[:2], -1)

    def _refined(self, states: Tensor, rois: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Return codes (B, N, 4), and refined boxes (B, N, 4) cxcywh relative to the image."""
        codes = self.box(states).float()
        corners = clipped(decode(codes, rois, ROI_SCALES), sizes) / sizes.repeat(1, 2)[:, None]
        low, high = corners[..., :2], corners[..., 2:]
        return codes, torch.cat([(low + high) / 2, high - low], -1)
