"""The student detector: backbone, deformable transformer, language queries and three heads.

It knows no data set, no store and no annotations: the present concepts come as an argument.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detector.backbone import Backbone, Pyramid
from detector.config import ModelConfig
from detector.guidance import LanguageGuidance
from detector.structures import DetectorOutput, PresentText
from detector.transformer import DeformableTransformer, Encoded

__all__ = ["CCKTDetector", "DetectorOutput", "PresentText"]

PRIOR_LOGIT = -math.log(99.0)
"""Class probability 0.01 at the start, so that the many background queries do not drown the first steps."""


class UnitLinear(nn.Module):
    """A linear layer whose output is a unit vector, in float32 whatever the autocast."""

    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden, width)
        nn.init.xavier_uniform_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        out = self.linear(x)
        return F.normalize(
            out.float() if out.dtype in (torch.float16, torch.bfloat16) else out, dim=-1, eps=1e-6
        )


class TextHead(nn.Module):
    """Class logits as scale * cosine + bias against the vocabulary's text."""

    def __init__(self, hidden: int, width: int, own: bool) -> None:
        super().__init__()
        self.embed = UnitLinear(hidden, width) if own else None
        self.log_scale = nn.Parameter(torch.tensor(math.log(10.0)))
        self.bias = nn.Parameter(torch.tensor(PRIOR_LOGIT))

    def forward(self, x: Tensor, region: Tensor, text: Tensor) -> Tensor:
        """x: (B, N, d), region: (B, N, D) unit, text: (C, D) unit. Returns (B, N, C)."""
        embedding = self.embed(x) if self.embed is not None else region
        with torch.autocast(x.device.type, enabled=False):
            out: Tensor = embedding @ text.t() * self.log_scale.exp() + self.bias
        return out


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
        )
        self.query_content = nn.Embedding(config.queries, hidden)
        self.query_position = nn.Embedding(config.queries, hidden)
        self.guidance = LanguageGuidance(embedding_dim, hidden) if config.guidance else None
        self.region_heads = nn.ModuleList([UnitLinear(hidden, embedding_dim) for _ in layers])
        if config.class_head == "text":
            own = config.class_embedding == "own"
            self.class_heads = nn.ModuleList([TextHead(hidden, embedding_dim, own) for _ in layers])
        else:
            assert n_classes > 0, "class_head='linear' needs n_classes"
            self.class_heads = nn.ModuleList([_closed_head(hidden, n_classes) for _ in layers])

    def forward(
        self, images: Tensor, padding: Tensor | None, text: Tensor | None, guidance: PresentText | None
    ) -> DetectorOutput:
        """Detect.

        images: (B, 3, H, W), normalised. padding: (B, H, W) bool, True where the batch was padded, or None.
        text: (C, D) unit, the vocabulary that the class head scores; None for the linear head.
        guidance: the present concepts; None, or config.guidance False, leaves the queries as learned.
        """
        return self.decode(self.encode(images, padding), text, guidance)

    def encode(self, images: Tensor, padding: Tensor | None) -> Encoded:
        """Look at the photos, knowing nothing of words: most of the work, done once whatever is asked."""
        pyramid = self.pyramid(self.backbone(images))
        return self.transformer.encode(pyramid, _shrink(padding, pyramid))

    def decode(self, encoded: Encoded, text: Tensor | None, guidance: PresentText | None) -> DetectorOutput:
        """Ask about photos that were encoded; as often as there are vocabularies and priors to ask with."""
        content, position = self.queries(encoded.memory.shape[0], guidance)
        states, boxes = self.transformer.decode(encoded, content, position)
        return self.heads(states, boxes, text)

    def queries(self, batch: int, guidance: PresentText | None) -> tuple[Tensor, Tensor]:
        """Content and position of the queries, (batch, N, d) each."""
        content = self.query_content.weight.expand(batch, -1, -1)
        position = self.query_position.weight.expand(batch, -1, -1)
        if self.guidance is not None:
            if guidance is None:
                guidance = PresentText(
                    content.new_zeros((batch, 0, self.embedding_dim)),
                    torch.zeros(batch, dtype=torch.int64, device=content.device),
                )
            content = self.guidance(content, guidance)
        return content, position

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
            logits = [head(state) for head, state in zip(self.class_heads, states, strict=True)]
            logits = [one.float() if one.dtype in (torch.float16, torch.bfloat16) else one for one in logits]
        return DetectorOutput(boxes, torch.stack(logits), region)


def _closed_head(hidden: int, n_classes: int) -> nn.Linear:
    head = nn.Linear(hidden, n_classes)
    nn.init.constant_(head.bias, PRIOR_LOGIT)
    return head


def _shrink(padding: Tensor | None, pyramid: list[Tensor]) -> list[Tensor] | None:
    """The padding mask at every level's size (nearest)."""
    if padding is None:
        return None
    return [F.interpolate(padding[None].float(), size=level.shape[-2:])[0].bool() for level in pyramid]
