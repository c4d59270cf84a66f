"""The AdaMixer student: backbone, FPN, dense first boxes, and stages with adaptive mixing.

docs/method/hd_ovd.md, section 7.1. Shape legend: L stages, B images, N queries, C concepts, D width of the
teacher, d hidden size.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cckt.cache_builder.base.errors import UserError
from cckt.detector.config.checks import require
from cckt.detector.config.config import Config
from cckt.detector.students.adamixer import criterion
from cckt.detector.students.adamixer.coding import code, corners_of
from cckt.detector.students.adamixer.dense import DenseStage
from cckt.detector.students.adamixer.mixing import LevelMaps
from cckt.detector.students.adamixer.outputs import EncodedQueries, MixerOutput
from cckt.detector.students.adamixer.stage import Stage, StageOutput
from cckt.detector.students.backbones.backbone import Backbone
from cckt.detector.students.backbones.fpn import FeaturePyramid, level_strides
from cckt.detector.students.boxes import to_xyxy
from cckt.detector.students.contract import (
    MASKED,
    AgnosticRegions,
    DetectionLoss,
    Pairs,
    PresentText,
    Student,
)
from cckt.detector.students.first_boxes import best, image_sizes, rows
from cckt.detector.students.hd_heads import ImageHead, RelationHead, TextProjector
from cckt.detector.students.matching import matching_config
from cckt.detector.students.targets import PaddedTargets


class AdaMixer(Student):
    """AdaMixer with text embeddings as classes; queries start at dense boxes and have no guidance."""

    def __init__(self, config: Config, embedding_dim: int, *, pretrained: bool = True) -> None:
        super().__init__()
        model = config.model
        _check(config)
        self.config, self.embedding_dim = config, embedding_dim
        self.output_layers = model.decoder_layers
        self.recompute = False
        """In training: keep only the inputs of each stage and recompute the rest in the backward pass."""
        self.backbone = Backbone(model, pretrained)
        self.pyramid = FeaturePyramid(self.backbone.channels, model.levels, model.hidden, norm=True)
        strides = level_strides(model.strides, model.levels)
        self.sampled_strides = strides[: len(model.strides)]
        self.dense = DenseStage(config, embedding_dim, strides[1:])
        self.content_norm = nn.LayerNorm(model.hidden)
        self.stages = nn.ModuleList(Stage(config, embedding_dim) for _ in range(model.decoder_layers))
        self.text_projector = TextProjector(embedding_dim) if model.text_projector else None
        self.relation_head = RelationHead(embedding_dim) if model.relation_head else None
        self.image_head = ImageHead(model.hidden, embedding_dim) if model.image_head else None

    def encode(self, images: Tensor, padding: Tensor | None) -> EncodedQueries:
        """Backbone, pyramid, dense boxes, and the best of them as first boxes of the queries."""
        pyramid, sizes = self.pyramid(self.backbone(images)), image_sizes(images, padding)
        dense = self.dense(pyramid[1:], sizes)
        candidates = dense.candidates
        places, kept = best(candidates.objectness.detach(), self.config.model.queries)
        objectness = rows(candidates.objectness.detach(), places).masked_fill(~kept, MASKED)
        boxes = rows(candidates.boxes.detach(), places)
        sampled = pyramid[: len(self.sampled_strides)]
        image = None
        if self.image_head is not None and self.training:
            image = self.image_head(sampled, padding)
        return EncodedQueries(sampled, sizes, dense, boxes, objectness, kept, image)

    def decode(
        self, encoded: EncodedQueries, text: Tensor, guidance: PresentText | None, training: None = None
    ) -> MixerOutput:
        """All stages. Boxes of training are not cut to the image, so that they have gradients outside."""
        stages = self._run(encoded)
        scale = encoded.sizes.repeat(1, 2)[:, None]
        corners = torch.stack([corners_of(stage.codes) for stage in stages]) / scale
        if not self.training:
            corners = corners.clamp(0, 1)
        boxes = torch.cat(
            [(corners[..., :2] + corners[..., 2:]) / 2, corners[..., 2:] - corners[..., :2]], -1
        )
        kept, logits, regions = encoded.kept, [], []
        for module, stage in zip(self.stages, stages, strict=True):
            assert isinstance(module, Stage), f"expected Stage, found {type(module).__name__}"
            regions.append(module.region(stage.embedding))
            logits.append(module.class_head(stage.content, regions[-1], text))
        output = MixerOutput(
            boxes,
            torch.stack(logits).masked_fill(~kept[..., None], MASKED),
            torch.stack(regions),
            objectness=torch.stack([stage.objectness for stage in stages]),
            image=encoded.image,
            kept=kept,
            dense=encoded.dense,
            sizes=encoded.sizes,
        )
        if self.text_projector is None:
            return output
        raw = torch.stack(
            [self._stage(number).region.raw(stage.embedding) for number, stage in enumerate(stages)]
        )
        relation = None
        if self.relation_head is not None:
            relation = self.relation_head(raw, self.text_projector.last_weight)
        projected = self.text_projector(raw)
        return replace(
            output, text_region=projected, relation=relation, background=self.text_projector.background
        )

    def _stage(self, number: int) -> Stage:
        stage = self.stages[number]
        assert isinstance(stage, Stage), f"expected a stage, found {type(stage).__name__}"
        return stage

    def region_proposals(self, encoded: EncodedQueries, text: Tensor) -> AgnosticRegions:
        """Return the boxes of the last stage and their objectness, MASKED in the padding."""
        stage = self._run(encoded)[-1]
        corners = (corners_of(stage.codes) / encoded.sizes.repeat(1, 2)[:, None]).clamp(0, 1)
        centre, side = (corners[..., :2] + corners[..., 2:]) / 2, corners[..., 2:] - corners[..., :2]
        return AgnosticRegions(torch.cat([centre, side], -1), stage.objectness)

    def match(self, output: MixerOutput, targets: PaddedTargets, text: Tensor) -> Pairs:
        """Hungarian assignment per image and stage: objects, then proposals to the free queries."""
        config = matching_config(self.config, self.region_trained)
        return criterion.match(output, targets, text, config)

    def detection_loss(
        self,
        output: MixerOutput,
        targets: PaddedTargets,
        pairs: Pairs,
        present: Tensor | None,
        training: None,
    ) -> DetectionLoss:
        """Losses of the stages and of the dense boxes."""
        return criterion.detection_loss(output, targets, pairs, self.config)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Backbone; sampling offsets; the rest."""
        groups: dict[str, list[nn.Parameter]] = {"backbone": [], "sampling": [], "rest": []}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                sampling = "sampling_offsets" in name
                kind = "backbone" if name.startswith("backbone.") else "sampling" if sampling else "rest"
                groups[kind].append(parameter)
        return groups

    def prepare_training(self, checkpoint_activations: bool) -> None:
        """channels_last makes convolutions faster."""
        self.prepare_inference()
        self.recompute = checkpoint_activations

    def prepare_inference(self) -> None:
        """channels_last, as in training."""
        for part in (self.backbone, self.pyramid, self.dense):
            part.to(memory_format=torch.channels_last)

    def _run(self, encoded: EncodedQueries) -> list[StageOutput]:
        """Return the output of every stage."""
        scale = encoded.sizes.repeat(1, 2)[:, None]
        whole = encoded.boxes.new_tensor([0.5, 0.5, 1.0, 1.0])
        boxes = torch.where(encoded.kept[..., None], encoded.boxes, whole)
        codes = code(to_xyxy(boxes).clamp(0, 1) * scale)
        maps = LevelMaps(encoded.pyramid, self.sampled_strides)
        at_centre = maps.read(codes[:, :, None, None, :2], codes[:, :, None, None, 2])
        content = self.content_norm(at_centre.flatten(2))
        out: list[StageOutput] = []
        for stage in self.stages:
            if self.recompute and torch.is_grad_enabled():
                found = checkpoint(stage, content, codes, encoded.kept, maps, use_reentrant=False)
            else:
                found = stage(content, codes, encoded.kept, maps)
            assert isinstance(found, StageOutput), f"expected StageOutput, found {type(found).__name__}"
            out.append(found)
            content, codes = found.content, found.codes
        return out


def _check(config: Config) -> None:
    """Raise UserError for options of the model that AdaMixer does not support."""
    model, groups = config.model, config.adamixer.groups
    require(
        model.levels > 1, "model.levels", model.levels, "at least 2, as dense boxes skip the finest level"
    )
    if model.hidden % groups:
        raise UserError(
            f"option adamixer.groups: found {groups}, expected a divisor of model.hidden {model.hidden}; "
            "change it with --set adamixer.groups=..."
        )
