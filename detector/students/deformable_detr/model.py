"""The Deformable DETR student: backbone, deformable transformer, language queries and three heads.

docs/method/cckt_det.md, section 4. Shape legend: L decoder layers, B images, N queries, A queries of a
training step (N, their copies, and Q denoising queries), C concepts, D width of the teacher, d hidden size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cckt.detector.config.config import Config
from cckt.detector.students.backbones.backbone import Backbone, Pyramid
from cckt.detector.students.contract import (
    AgnosticRegions,
    DetectionLoss,
    PresentText,
    Student,
    StudentOutput,
)
from cckt.detector.students.deformable_detr import criterion
from cckt.detector.students.deformable_detr.attention import choose_kernel
from cckt.detector.students.deformable_detr.denoise import noised_queries
from cckt.detector.students.deformable_detr.guidance import LanguageGuidance
from cckt.detector.students.deformable_detr.outputs import (
    DeformableOutput,
    DeformablePairs,
    EncoderCells,
    TrainingQueries,
)
from cckt.detector.students.deformable_detr.query_groups import Queries, attention_mask, split_output
from cckt.detector.students.deformable_detr.query_init import BoxPosition, ProposalHead, choose_cells
from cckt.detector.students.deformable_detr.sampling import has_triton, kernel_fault, require_triton
from cckt.detector.students.deformable_detr.transformer import DeformableTransformer, Encoded
from cckt.detector.students.hd_heads import ImageHead, ObjectnessHead, RelationHead, TextProjector
from cckt.detector.students.heads import TextHead, UnitLinear
from cckt.detector.students.matching import matching_config
from cckt.detector.students.targets import PaddedTargets

SAMPLING_NAMES = ("sampling_offsets", "reference_points")
"""Parts of the names of the parameters that decide where attention samples; they learn more slowly."""
PROJECTIONS = ("guidance.project.", "pyramid.")
"""Beginnings of the names of the projections that learn as slowly with `guidance.slow`."""


class DeformableDETR(Student):
    """Deformable DETR with language queries (docs/method/cckt_det.md, eqs. 8 to 11)."""

    def __init__(self, config: Config, embedding_dim: int, *, pretrained: bool = True) -> None:
        super().__init__()
        model = config.model
        self.config, self.embedding_dim = config, embedding_dim
        hidden, layers = model.hidden, range(model.decoder_layers)
        learned = model.reference == "learned"
        self.backbone = Backbone(model, pretrained)
        self.pyramid = Pyramid(self.backbone.channels, model.levels, hidden)
        self.transformer = DeformableTransformer(
            hidden,
            model.heads,
            model.levels,
            model.points,
            model.ffn,
            model.dropout,
            model.encoder_layers,
            model.decoder_layers,
            boxes_given=not learned,
        )
        choose_kernel(self.transformer, model.attention_kernel)
        self.query_content = nn.Embedding(model.queries, hidden)
        self.query_position = nn.Embedding(model.queries, hidden) if learned else None
        guided = config.guidance.enabled
        unguided = min(round(config.guidance.unguided * model.queries), model.queries - 1)
        self.unguided = unguided if guided else 0
        initial = config.guidance.initial
        self.guidance = LanguageGuidance(embedding_dim, hidden, initial, self.unguided) if guided else None
        self.region_heads = nn.ModuleList([UnitLinear(hidden, embedding_dim) for _ in layers])
        own = model.class_embedding == "own"
        self.class_heads = nn.ModuleList([TextHead(hidden, embedding_dim, own) for _ in layers])
        guided_references = model.reference == "guided" and guided
        self.proposals = None if learned else ProposalHead(hidden, embedding_dim, guided_references)
        many = config.one_to_many.encoder_repeats > 0
        self.encoder_head = ProposalHead(hidden, embedding_dim, guided=False) if many else None
        self.box_position = None if learned else BoxPosition(hidden)
        self.has_extra_regions = guided_references
        self.output_layers = model.decoder_layers
        self.objectness_heads = nn.ModuleList([ObjectnessHead(hidden) for _ in layers if model.objectness])
        self.text_projector = TextProjector(embedding_dim) if model.text_projector else None
        self.relation_head = RelationHead(embedding_dim) if model.relation_head else None
        self.image_head = ImageHead(hidden, embedding_dim) if model.image_head else None

    def encode(self, images: Tensor, padding: Tensor | None) -> Encoded:
        """Backbone, pyramid, encoder and, unless references are learned, the outputs of the cells.

        In training also the embedding of the image: of the levels of the backbone's strides, before the
        encoder (docs/method/hd_ovd.md, section 7.3).
        """
        pyramid = self.pyramid(self.backbone(images))
        encoded = self.transformer.encode(pyramid, _padding_of_levels(padding, pyramid))
        if self.image_head is not None and self.training:
            encoded.image = self.image_head(pyramid[: len(self.config.model.strides)], padding)
        if self.proposals is not None:
            encoded.cells = self.proposals(encoded)
        if self.encoder_head is not None and self.training:
            encoded.dense = self.encoder_head(encoded)
        return encoded

    def decode(
        self,
        encoded: Encoded,
        text: Tensor,
        guidance: PresentText | None,
        training: TrainingQueries | None = None,
    ) -> DeformableOutput:
        """Queries, decoder and heads. training: further queries; denoising queries need references at
        boxes."""
        batch = encoded.memory.shape[0]
        if guidance is None or self.guidance is None:
            guidance = self._no_guidance(batch)
        content = self.query_content.weight.expand(batch, -1, -1)
        if self.guidance is not None:
            content = self.guidance(content, guidance)
        position, first_boxes, cells = self._references(encoded, guidance)
        queries, mask = Queries(content, position, first_boxes), None
        if training is not None:
            queries, mask = self._with_training_queries(queries, training)
        states, boxes = self.transformer.decode(
            encoded, queries.content, queries.position, mask=mask, first_boxes=queries.first_boxes
        )
        output = self.heads(states, boxes, text)
        queries_only = states[:, :, : self.config.model.queries]
        further = self._hierarchical(queries_only) | {"image": encoded.image, "dense": encoded.dense}
        return split_output(output, further, cells, self.config.model.queries, training)

    def region_proposals(self, encoded: Encoded, text: Tensor) -> AgnosticRegions:
        """Return the boxes of the queries, then those of the encoder cells.

        Both are ranked by the objectness of cells: a query by that of the cell which gave its first box. With
        learned references there are no cells; the queries are ranked by their highest class logit.
        """
        if encoded.cells is None or self.proposals is None:
            return super().region_proposals(encoded, text)
        guidance = self._no_guidance(encoded.memory.shape[0])
        cells = self.proposals.with_concepts(encoded.cells, guidance)
        chosen = choose_cells(cells, encoded, guidance.counts, self.config.model.queries, self.unguided)
        output = self.decode(encoded, text, None)
        objectness = torch.cat([cells.objectness.gather(1, chosen), cells.objectness], 1)
        boxes = torch.cat([output.boxes[-1].float(), cells.boxes.float()], 1)
        return AgnosticRegions(boxes, objectness.float())

    def training_inputs(self, targets: PaddedTargets, text: Tensor) -> TrainingQueries | None:
        """Denoising queries and copies, if the config has any."""
        config = self.config
        if not (config.denoise.groups or config.one_to_many.repeats):
            return None
        noised = None
        if config.denoise.groups:
            noised = noised_queries(targets, text, config.denoise, config.model.queries)
        return TrainingQueries(noised, copies=config.one_to_many.repeats > 0)

    def match(self, output: DeformableOutput, targets: PaddedTargets, text: Tensor) -> DeformablePairs:
        """Hungarian assignment per image and layer."""
        config = matching_config(self.config, self.region_trained)
        return criterion.match(output, targets, text, config)

    def detection_loss(
        self,
        output: DeformableOutput,
        targets: PaddedTargets,
        pairs: DeformablePairs,
        present: Tensor | None,
        training: TrainingQueries | None,
    ) -> DetectionLoss:
        """Losses of the queries, and of cells, denoising queries and copies if there are any."""
        return criterion.detection_loss(output, targets, pairs, present, training, self.config)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Backbone; sampling offsets and reference points (with `guidance.slow` projections too); the rest.

        As in DETR, all of them have weight decay.
        """
        groups: dict[str, list[nn.Parameter]] = {"backbone": [], "sampling": [], "rest": []}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                sampling = any(part in name for part in SAMPLING_NAMES)
                sampling = sampling or (self.config.guidance.slow and name.startswith(PROJECTIONS))
                kind = "backbone" if name.startswith("backbone.") else "sampling" if sampling else "rest"
                groups[kind].append(parameter)
        assert groups["sampling"], f"no parameter is named {' or '.join(SAMPLING_NAMES)}"
        return groups

    def prepare_training(self, checkpoint_activations: bool) -> None:
        """channels_last makes convolutions up to twice as fast, on CPUs and GPUs."""
        self.backbone.to(memory_format=torch.channels_last)
        self.transformer.recompute = checkpoint_activations

    def prepare_inference(self) -> None:
        """channels_last, as in training; PyTorch's sampling may replace Triton's: the results are equal."""
        self.backbone.to(memory_format=torch.channels_last)
        if self.config.model.attention_kernel == "triton":
            choose_kernel(self, "auto")

    @classmethod
    def check_device(cls, config: Config, device: torch.device) -> list[str]:
        """Whether the Triton kernel runs on the device."""
        kernel = config.model.attention_kernel
        if kernel == "triton":
            require_triton(device)
        if kernel == "auto" and device.type == "cuda" and has_triton():
            fault = kernel_fault(device)
            if fault:
                note = f"the Triton kernel does not run on this GPU ({fault}); PyTorch's grid_sample is used"
                return [note]
        return []

    def _hierarchical(self, states: Tensor) -> dict[str, Tensor | None]:
        """Return the outputs of the heads of HD-OVD (docs/method/hd_ovd.md, section 7.3), by name.

        states: (L, B, N, d) of the N queries.
        """
        found: dict[str, Tensor | None] = {}
        if self.objectness_heads:
            heads = zip(self.objectness_heads, states, strict=True)
            found["objectness"] = torch.stack([head(state) for head, state in heads])
        if self.text_projector is None:
            return found
        raw = torch.stack(
            [
                head.raw(state)
                for head, state in zip(self.region_heads, states, strict=True)
                if isinstance(head, UnitLinear)
            ]
        )
        found |= {"text_region": self.text_projector(raw), "background": self.text_projector.background}
        if self.relation_head is not None:
            found["relation"] = self.relation_head(raw, self.text_projector.last_weight)
        return found

    def _references(
        self, encoded: Encoded, guidance: PresentText
    ) -> tuple[Tensor, Tensor | None, EncoderCells | None]:
        """Return the positions (B, N, d) of the queries and, if cells propose them, first boxes (B, N, 4)."""
        if self.proposals is None or self.box_position is None or encoded.cells is None:
            assert self.query_position is not None, "learned references need query_position"
            return self.query_position.weight.expand(encoded.memory.shape[0], -1, -1), None, None
        cells = self.proposals.with_concepts(encoded.cells, guidance)
        chosen = choose_cells(cells, encoded, guidance.counts, self.config.model.queries, self.unguided)
        first_boxes = cells.boxes.detach().gather(1, chosen[..., None].expand(-1, -1, 4))
        return self.box_position(first_boxes), first_boxes, cells

    def _with_training_queries(self, queries: Queries, training: TrainingQueries) -> tuple[Queries, Tensor]:
        """Return the queries, their copies and the denoising queries, concatenated, and their attention
        mask."""
        parts = [queries, queries] if training.copies else [queries]
        groups = slots = 0
        noised = training.noised
        if noised is not None:
            assert self.box_position is not None, "denoising queries need references at boxes"
            content = self.query_content.weight[noised.contents].expand(len(noised.boxes), -1, -1)
            if self.guidance is not None:
                words = self.guidance.project(noised.words)
                content = content + words * noised.real[..., None].to(words.dtype)
            parts.append(Queries(content, self.box_position(noised.boxes), noised.boxes))
            groups, slots = noised.groups, noised.boxes.shape[1]
        first_boxes = [part.first_boxes for part in parts if part.first_boxes is not None]
        joined = Queries(
            torch.cat([part.content for part in parts], 1),
            torch.cat([part.position for part in parts], 1),
            torch.cat(first_boxes, 1) if first_boxes else None,
        )
        device = queries.content.device
        return joined, attention_mask(self.config.model.queries, training.copies, groups, slots, device)

    def _no_guidance(self, batch: int) -> PresentText:
        weight = self.query_content.weight
        counts = torch.zeros(batch, dtype=torch.int64, device=weight.device)
        return PresentText(weight.new_zeros((batch, 0, self.embedding_dim)), counts)

    def heads(self, states: Tensor, boxes: Tensor, text: Tensor) -> StudentOutput:
        """states: (L, B, N, d), boxes: (L, B, N, 4), text: (C, D) unit."""
        region = torch.stack([head(state) for head, state in zip(self.region_heads, states, strict=True)])
        logits = [
            head(state, one, text) for head, state, one in zip(self.class_heads, states, region, strict=True)
        ]
        return StudentOutput(boxes, torch.stack(logits), region)


def _padding_of_levels(padding: Tensor | None, pyramid: list[Tensor]) -> list[Tensor] | None:
    """Return the padding mask at the size of every level (nearest)."""
    if padding is None:
        return None
    return [F.interpolate(padding[None].float(), size=level.shape[-2:])[0].bool() for level in pyramid]
