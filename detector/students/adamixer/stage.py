"""A stage of AdaMixer, which refines the content and box of every query (docs/method/hd_ovd.md, section 7.1).

Shape legend: B images, N queries, d hidden size, D width of the teacher, C concepts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cckt.detector.config.config import Config
from cckt.detector.students.adamixer.coding import corners_of, overlap_of_first, refined, sine_codes
from cckt.detector.students.adamixer.mixing import AdaptiveMixing, LevelMaps
from cckt.detector.students.contract import MASKED
from cckt.detector.students.hd_heads import ObjectnessHead
from cckt.detector.students.heads import TextHead, UnitLinear
from cckt.detector.students.precision import single


@dataclass(frozen=True)
class StageOutput:
    """Of one stage: content (B, N, d), codes (B, N, 4), and the outputs of its heads."""

    content: Tensor
    codes: Tensor
    objectness: Tensor
    """(B, N) float32 logits."""
    embedding: Tensor
    """(B, N, d) input of the region head's last layer."""


class BoxAwareAttention(nn.Module):
    """Self-attention of content and box; each head prefers boxes that cover its own."""

    def __init__(self, hidden: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.qkv = nn.Linear(hidden, 3 * hidden)
        self.out = nn.Linear(hidden, hidden)
        self.cover = nn.Parameter(torch.empty(heads))
        """(heads,) factor tau on the logarithm of the IoF."""
        self.norm = nn.LayerNorm(hidden)
        nn.init.uniform_(self.cover, 0.0, 4.0)
        for weight in (*self.qkv.weight.chunk(3), self.out.weight):
            nn.init.xavier_uniform_(weight)
        for linear in (self.qkv, self.out):
            nn.init.zeros_(linear.bias)

    def forward(self, content: Tensor, codes: Tensor, kept: Tensor) -> Tensor:
        """Return (B, N, d). kept: (B, N) bool; the others are attended by none."""
        x = content + sine_codes(codes, content.shape[-1])
        batch, queries, hidden = x.shape
        split = (batch, queries, 3, self.heads, hidden // self.heads)
        query, key, value = self.qkv(x).view(split).permute(2, 0, 3, 1, 4).unbind(0)
        cover = (overlap_of_first(corners_of(codes)) + 1e-7).log()
        bias = self.cover[:, None, None] * cover[:, None]
        bias = bias.masked_fill(~kept[:, None, None], MASKED)
        dropout = self.dropout if self.training else 0.0
        with torch.autocast(x.device.type, enabled=False):  # the bias reaches -64
            mixed = F.scaled_dot_product_attention(
                query.float(), key.float(), value.float(), attn_mask=bias.float(), dropout_p=dropout
            )
        added = self.out(mixed.transpose(1, 2).flatten(2))
        out: Tensor = self.norm(x + F.dropout(added, self.dropout, self.training))
        return out


class Stage(nn.Module):
    """Self-attention, sampling and mixing, feed-forward, then heads for box, objectness and region."""

    def __init__(self, config: Config, embedding_dim: int) -> None:
        super().__init__()
        model, hidden = config.model, config.model.hidden
        self.attention = BoxAwareAttention(hidden, model.heads, model.dropout)
        self.mixing = AdaptiveMixing(hidden, config.adamixer)
        self.mixing_norm = nn.LayerNorm(hidden)
        self.ffn = nn.Sequential(nn.Linear(hidden, model.ffn), nn.ReLU(), nn.Linear(model.ffn, hidden))
        self.ffn_norm = nn.LayerNorm(hidden)
        self.region_state = nn.Sequential(nn.Linear(hidden, hidden), nn.LayerNorm(hidden))
        self.region = UnitLinear(hidden, embedding_dim)
        self.class_head = TextHead(hidden, embedding_dim, model.class_embedding == "own")
        layers: list[nn.Module] = []
        for _ in range(3):
            layers += [nn.Linear(hidden, hidden), nn.LayerNorm(hidden), nn.ReLU()]
        self.box = nn.Sequential(*layers)
        self.box_change = nn.Linear(hidden, 4)
        self.objectness = ObjectnessHead(hidden)
        for part in (self.ffn, self.region_state, self.box):
            for module in part:
                if isinstance(module, nn.Linear):
                    nn.init.xavier_uniform_(module.weight)
                    nn.init.zeros_(module.bias)
        nn.init.zeros_(self.box_change.weight)
        nn.init.zeros_(self.box_change.bias)

    def forward(self, content: Tensor, codes: Tensor, kept: Tensor, maps: LevelMaps) -> StageOutput:
        """content: (B, N, d). codes: (B, N, 4); no gradient flows into them. kept: (B, N) bool."""
        codes = codes.detach()
        x = self.attention(content, codes, kept)
        x = self.mixing_norm(self.mixing(x, codes, maps))
        x = self.ffn_norm(x + self.ffn(x))
        change = single(self.box_change(self.box(x)))
        objectness = self.objectness(x).masked_fill(~kept, MASKED)
        return StageOutput(x, refined(codes, change), objectness, self.region_state(x))
