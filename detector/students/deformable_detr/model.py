"""The student detector: backbone, deformable transformer, language queries and three heads.

It knows no data set, no store and no annotations: the present concepts come as an argument.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cckt.detector.config.config import ModelConfig
from cckt.detector.students.backbone import Backbone, Pyramid
from cckt.detector.students.contract import DetectorOutput, PresentText, Proposals, TrainingQueries
from cckt.detector.students.deformable_detr.attention import choose_kernel
from cckt.detector.students.deformable_detr.guidance import LanguageGuidance
from cckt.detector.students.deformable_detr.query_init import BoxPosition, ProposalHead, choose_cells
from cckt.detector.students.deformable_detr.transformer import DeformableTransformer, Encoded
from cckt.detector.students.heads import TextHead, UnitLinear, closed_head
from cckt.detector.students.precision import single

__all__ = ["CCKTDetector", "DetectorOutput", "PresentText"]


class CCKTDetector(nn.Module):
    """CCKT-Det's student (METHOD.md section 4).

    embedding_dim: the teacher's D. n_classes: width of the closed-set head, for class_head="linear" only.
    pretrained: False skips the backbone's weights, because a checkpoint follows.
    """

    def __init__(
        self, config: ModelConfig, embedding_dim: int, n_classes: int = 0, *, pretrained: bool = True
    ) -> None:
        super().__init__()
        self.config, self.embedding_dim, self.n_classes = config, embedding_dim, n_classes
        hidden, layers = config.hidden, range(config.decoder_layers)
        learned = config.reference == "learned"
        self.backbone = Backbone(config, pretrained)
        self.pyramid = Pyramid(self.backbone.channels, config.levels, hidden)
        self.transformer = DeformableTransformer(
            hidden,
            config.heads,
            config.levels,
            config.points,
            config.ffn,
            config.dropout,
            config.encoder_layers,
            config.decoder_layers,
            boxes_given=not learned,
        )
        choose_kernel(self.transformer, config.attention_kernel)
        self.query_content = nn.Embedding(config.queries, hidden)
        self.query_position = nn.Embedding(config.queries, hidden) if learned else None
        self.guidance = LanguageGuidance(embedding_dim, hidden) if config.guidance else None
        self.region_heads = nn.ModuleList([UnitLinear(hidden, embedding_dim) for _ in layers])
        if config.class_head == "text":
            own = config.class_embedding == "own"
            self.class_heads = nn.ModuleList([TextHead(hidden, embedding_dim, own) for _ in layers])
        else:
            assert n_classes > 0, "class_head='linear' needs n_classes"
            self.class_heads = nn.ModuleList([closed_head(hidden, n_classes) for _ in layers])
        words = config.reference == "guided" and config.guidance
        self.proposals = None if learned else ProposalHead(hidden, embedding_dim, words)
        self.box_position = None if learned else BoxPosition(hidden)

    def forward(
        self,
        images: Tensor,
        padding: Tensor | None,
        text: Tensor | None,
        guidance: PresentText | None,
        training: TrainingQueries | None = None,
    ) -> DetectorOutput:
        """Detect.

        images: (B, 3, H, W), normalised. padding: (B, H, W) bool, True where the batch was padded, or None.
        text: (C, D) unit, the vocabulary that the class head scores; None for the linear head.
        guidance: the present concepts; None, or config.guidance False, leaves the queries as learned.
        training: what a training step asks for beside; denoising needs queries that begin at boxes.
        """
        return self.decode(self.encode(images, padding), text, guidance, training)

    def encode(self, images: Tensor, padding: Tensor | None) -> Encoded:
        """Look at the photos, knowing nothing of words: most of the work, done once whatever is asked."""
        pyramid = self.pyramid(self.backbone(images))
        encoded = self.transformer.encode(pyramid, _shrink(padding, pyramid))
        if self.proposals is not None:
            encoded.proposals = self.proposals(encoded)
        return encoded

    def decode(
        self,
        encoded: Encoded,
        text: Tensor | None,
        guidance: PresentText | None,
        training: TrainingQueries | None = None,
    ) -> DetectorOutput:
        """Ask about photos that were encoded; as often as there are vocabularies and priors to ask with."""
        batch = encoded.memory.shape[0]
        if guidance is None or self.guidance is None:
            guidance = self._no_words(batch)
        content = self.query_content.weight.expand(batch, -1, -1)
        if self.guidance is not None:
            content = self.guidance(content, guidance)
        position, begin, proposals = self._places(encoded, guidance)
        queries, mask = Queries(content, position, begin), None
        if training is not None:
            queries, mask = self._beside(queries, training)
        states, boxes = self.transformer.decode(
            encoded, queries.content, queries.position, mask=mask, begin=queries.begin
        )
        output = self.heads(states, boxes, text)
        if training is not None:
            output = _apart(output, self.config.queries, training)
        return replace(output, proposals=proposals)

    def _places(
        self, encoded: Encoded, guidance: PresentText
    ) -> tuple[Tensor, Tensor | None, Proposals | None]:
        """Position (B, N, d) of the queries; and where cells propose them, first boxes (B, N, 4)."""
        if self.proposals is None or self.box_position is None or encoded.proposals is None:
            assert self.query_position is not None
            return self.query_position.weight.expand(encoded.memory.shape[0], -1, -1), None, None
        proposals = self.proposals.ask(encoded.proposals, guidance)
        cells = choose_cells(proposals, encoded, guidance.counts, self.config.queries)
        begin = proposals.boxes.detach().gather(1, cells[..., None].expand(-1, -1, 4))
        return self.box_position(begin), begin, proposals

    def _beside(self, queries: Queries, training: TrainingQueries) -> tuple[Queries, Tensor]:
        """The queries, then their copies, then the noised ones; and who may look at whom."""
        parts = [queries, queries] if training.alone else [queries]
        groups = slots = 0
        noised = training.noised
        if noised is not None:
            assert self.box_position is not None, "denoising queries begin at boxes"
            content = self.query_content.weight[noised.contents].expand(len(noised.boxes), -1, -1)
            if self.guidance is not None:
                words = self.guidance.project(noised.words)
                content = content + words * noised.real[..., None].to(words.dtype)
            parts.append(Queries(content, self.box_position(noised.boxes), noised.boxes))
            groups, slots = noised.groups, noised.boxes.shape[1]
        begins = [part.begin for part in parts if part.begin is not None]
        joined = Queries(
            torch.cat([part.content for part in parts], 1),
            torch.cat([part.position for part in parts], 1),
            torch.cat(begins, 1) if begins else None,
        )
        count, place = self.config.queries, queries.content.device
        return joined, attention_mask(count, training.alone, groups, slots, place)

    def _no_words(self, batch: int) -> PresentText:
        weight = self.query_content.weight
        counts = torch.zeros(batch, dtype=torch.int64, device=weight.device)
        return PresentText(weight.new_zeros((batch, 0, self.embedding_dim)), counts)

    def heads(self, states: Tensor, boxes: Tensor, text: Tensor | None) -> DetectorOutput:
        """states: (L, B, N, d), boxes: (L, B, N, 4), text: (C, D) or None."""
        region = torch.stack([head(state) for head, state in zip(self.region_heads, states, strict=True)])
        if self.config.class_head == "text":
            assert text is not None, "class_head='text' needs the vocabulary's text"
            logits = [
                head(state, one, text)
                for head, state, one in zip(self.class_heads, states, region, strict=True)
            ]
        else:
            logits = [single(head(state)) for head, state in zip(self.class_heads, states, strict=True)]
        return DetectorOutput(boxes, torch.stack(logits), region)


@dataclass(frozen=True)
class Queries:
    """What the decoder begins with: content and position (B, A, d), and first boxes (B, A, 4) or None."""

    content: Tensor
    position: Tensor
    begin: Tensor | None


def _apart(output: DetectorOutput, queries: int, training: TrainingQueries) -> DetectorOutput:
    """The answers of the N queries, and beside them those of their copies and of the noised ones."""

    def part(first: int, last: int | None) -> DetectorOutput:
        at = slice(first, last)
        return DetectorOutput(output.boxes[:, :, at], output.logits[:, :, at], output.region[:, :, at])

    copies = queries if training.alone else 0
    return replace(
        part(0, queries),
        alone=part(queries, queries + copies) if training.alone else None,
        noised=part(queries + copies, None) if training.noised is not None else None,
    )


def _shrink(padding: Tensor | None, pyramid: list[Tensor]) -> list[Tensor] | None:
    """The padding mask at every level's size (nearest)."""
    if padding is None:
        return None
    return [F.interpolate(padding[None].float(), size=level.shape[-2:])[0].bool() for level in pyramid]


def attention_mask(queries: int, alone: bool, groups: int, slots: int, device: torch.device | str) -> Tensor:
    """Who may look at whom, (A, A) bool over N queries, their N copies (if `alone`), and Q noised ones.

    The queries see each other and nothing else, so that what is only there in training cannot help them. A
    copy sees itself. A noised query sees its own group and the queries.
    """
    copies = queries if alone else 0
    total = queries + copies + slots
    mask = torch.zeros((total, total), dtype=torch.bool, device=device)
    mask[:queries, :queries] = True
    mask.diagonal()[queries : queries + copies] = True
    if slots:
        group = torch.arange(slots, device=device) // (slots // groups)
        mask[queries + copies :, :queries] = True
        mask[queries + copies :, queries + copies :] = group[:, None] == group[None]
    return mask
