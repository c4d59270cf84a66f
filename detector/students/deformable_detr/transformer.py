"""The deformable transformer of Deformable DETR: from a pyramid to decoder states and refined boxes.

With the same weights it equals the DeformableDetrModel of the library transformers (a test compares them),
except that it has no dropout on the encoder's input.

Shape legend: B images, S = sum of h*w over levels, N queries, d hidden size, L levels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cckt.detector.students.deformable_detr.attention import DeformableAttention
from cckt.detector.students.deformable_detr.dropout import dropout, relu_dropout
from cckt.detector.students.deformable_detr.outputs import EncoderCells
from cckt.detector.students.deformable_detr.positions import cell_centres, inverse_sigmoid, sine_positions
from cckt.detector.students.deformable_detr.shapes import Shapes


class FeedForward(nn.Module):
    """Linear, ReLU, linear; then residual and norm."""

    def __init__(self, hidden: int, ffn: int, dropout: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(hidden, ffn)
        self.fc2 = nn.Linear(ffn, hidden)
        self.norm = nn.LayerNorm(hidden)
        self.dropout = dropout
        for linear in (self.fc1, self.fc2):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., d) of (..., d)."""
        inner = relu_dropout(self.fc1(x), self.dropout, self.training)
        out: Tensor = self.norm(x + dropout(self.fc2(inner), self.dropout, self.training))
        return out


class SelfAttention(nn.Module):
    """Multi-head attention among queries; positions are added to queries and keys, not to values."""

    def __init__(self, hidden: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.qk_proj = nn.Linear(hidden, 2 * hidden)
        self.v_proj = nn.Linear(hidden, hidden)
        self.o_proj = nn.Linear(hidden, hidden)
        for weight in (*self.qk_proj.weight.chunk(2), self.v_proj.weight, self.o_proj.weight):
            nn.init.xavier_uniform_(weight)
        for linear in (self.qk_proj, self.v_proj, self.o_proj):
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor, position: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return (B, N, d). x, position: (B, N, d). mask: as in `DeformableTransformer.decode`."""
        split = (*x.shape[:2], -1, self.heads, x.shape[-1] // self.heads)
        query, key = self.qk_proj(x + position).view(split).permute(2, 0, 3, 1, 4).unbind(0)
        value = self.v_proj(x).view(split).squeeze(2).transpose(1, 2)
        rate = self.dropout if self.training else 0.0
        if x.device.type == "cpu":
            # On CPUs the backward pass of fused attention takes 16 times as long in bfloat16 (50 queries).
            with torch.autocast("cpu", enabled=False):
                query, key, value = query.float(), key.float(), value.float()
                mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=rate)
        else:
            mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=rate)
        out: Tensor = self.o_proj(mixed.transpose(1, 2).flatten(2))
        return out


class EncoderLayer(nn.Module):
    """Deformable self-attention over the pyramid, then feed-forward (post-norm)."""

    def __init__(self, hidden: int, heads: int, levels: int, points: int, ffn: int, dropout: float) -> None:
        super().__init__()
        self.attention = DeformableAttention(hidden, heads, levels, points)
        self.norm = nn.LayerNorm(hidden)
        self.feed_forward = FeedForward(hidden, ffn, dropout)
        self.dropout = dropout

    def forward(
        self, x: Tensor, position: Tensor, references: Tensor, shapes: Shapes, keep: Tensor | None
    ) -> Tensor:
        """Return (B, S, d). x, position: (B, S, d); references and keep as in `DeformableAttention`."""
        attended = self.attention(x + position, references, x, shapes, keep)
        out: Tensor = self.feed_forward(self.norm(x + dropout(attended, self.dropout, self.training)))
        return out


class DecoderLayer(nn.Module):
    """Self-attention among queries, deformable attention to the pyramid, feed-forward (post-norm)."""

    def __init__(self, hidden: int, heads: int, levels: int, points: int, ffn: int, dropout: float) -> None:
        super().__init__()
        self.self_attention = SelfAttention(hidden, heads, dropout)
        self.self_norm = nn.LayerNorm(hidden)
        self.attention = DeformableAttention(hidden, heads, levels, points)
        self.norm = nn.LayerNorm(hidden)
        self.feed_forward = FeedForward(hidden, ffn, dropout)
        self.dropout = dropout

    def forward(
        self,
        x: Tensor,
        position: Tensor,
        references: Tensor,
        memory: Tensor,
        shapes: Shapes,
        keep: Tensor | None,
        mask: Tensor | None,
    ) -> Tensor:
        """Return (B, N, d). x, position: (B, N, d); mask as in `SelfAttention`; the rest as in
        `DeformableAttention`."""
        mixed = self.self_attention(x, position, mask)
        x = self.self_norm(x + dropout(mixed, self.dropout, self.training))
        attended = self.attention(x + position, references, memory, shapes, keep)
        x = self.norm(x + dropout(attended, self.dropout, self.training))
        out: Tensor = self.feed_forward(x)
        return out


class BoxHead(nn.Module):
    """A 3-layer MLP d -> 4: the change of the reference box, before the sigmoid (eq. 10).

    from_point: the reference is a point, so the head predicts the whole size.
    """

    def __init__(self, hidden: int, from_point: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [nn.Linear(hidden, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, 4)]
        )
        last = self.layers[2]
        assert isinstance(last, nn.Linear), f"expected Linear, found {type(last).__name__}"
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        if from_point:  # start at sigmoid(-2) = 0.12 of the image's sides, not at half of them
            nn.init.constant_(last.bias[2:], -2.0)

    def forward(self, x: Tensor) -> Tensor:
        """Return changes (..., 4) of states (..., d)."""
        for layer in list(self.layers)[:-1]:
            x = F.relu(layer(x))
        out: Tensor = self.layers[2](x)
        return out


class DeformableTransformer(nn.Module):
    """Encoder, decoder, and the box heads that refine the references from layer to layer.

    boxes_given: `decode` gets a first box for each query; otherwise a reference point is learned for each.
    """

    def __init__(
        self,
        hidden: int,
        heads: int,
        levels: int,
        points: int,
        ffn: int,
        dropout: float,
        encoder_layers: int,
        decoder_layers: int,
        boxes_given: bool = False,
    ) -> None:
        super().__init__()
        self.hidden = hidden
        self.recompute = False
        """In training: keep only the inputs of each layer and recompute the rest in the backward pass."""
        shape = (hidden, heads, levels, points, ffn, dropout)
        self.level_embed = nn.Parameter(torch.empty(levels, hidden))
        self.encoder = nn.ModuleList([EncoderLayer(*shape) for _ in range(encoder_layers)])
        self.decoder = nn.ModuleList([DecoderLayer(*shape) for _ in range(decoder_layers)])
        self.reference_points = None if boxes_given else nn.Linear(hidden, 2)
        self.box_heads = nn.ModuleList(
            [BoxHead(hidden, from_point=layer == 0 and not boxes_given) for layer in range(decoder_layers)]
        )
        nn.init.normal_(self.level_embed)
        if self.reference_points is not None:
            nn.init.xavier_uniform_(self.reference_points.weight)
            nn.init.zeros_(self.reference_points.bias)

    def _run_layer(self, layer: nn.Module, *inputs: Tensor | Shapes | None) -> Tensor:
        """Return the layer's output, with activation checkpointing if `recompute`."""
        if self.recompute and torch.is_grad_enabled():
            out: Tensor = checkpoint(layer, *inputs, use_reentrant=False)
        else:
            out = layer(*inputs)
        return out

    def encode(self, pyramid: list[Tensor], padding: list[Tensor] | None) -> Encoded:
        """Encode a pyramid of L maps (B, d, h, w). padding: L masks (B, h, w) bool, or None."""
        shapes: Shapes = [(level.shape[2], level.shape[3]) for level in pyramid]
        flat = torch.cat([level.flatten(2).transpose(1, 2) for level in pyramid], 1)
        # Without padding, positions are equal for all images: one row serves the batch.
        if padding is None:
            kept = [flat.new_ones((1, *shape), dtype=torch.float32) for shape in shapes]
            keep, ratios = None, torch.ones((1, len(shapes), 2), device=flat.device)
        else:
            kept = [(~mask).float() for mask in padding]
            keep = torch.cat([one.flatten(1) for one in kept], 1).bool()[..., None]
            ratios = torch.stack(
                [torch.stack([one[:, 0].mean(1), one[:, :, 0].mean(1)], -1) for one in kept], dim=1
            )
        position = torch.cat(
            [
                sine_positions(one, self.hidden) + embed
                for one, embed in zip(kept, self.level_embed, strict=True)
            ],
            1,
        )
        memory = flat
        references = cell_centres(shapes, ratios)
        for layer in self.encoder:
            memory = self._run_layer(layer, memory, position, references, shapes, keep)
        return Encoded(memory, shapes, keep, ratios)

    def decode(
        self,
        encoded: Encoded,
        content: Tensor,
        position: Tensor,
        mask: Tensor | None = None,
        first_boxes: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return states (layers, B, N, d) and boxes (layers, B, N, 4).

        Boxes are float32 cxcywh in [0, 1], relative to the unpadded image. content, position: (B, N, d).
        mask: (N, N) bool, True if the query of the row may attend to that of the column; None for all.
        first_boxes: (B, N, 4) float32 cxcywh, needed with `boxes_given`; no gradient flows into them.
        """
        x = content
        if self.reference_points is None:
            assert first_boxes is not None, "a transformer with boxes_given needs first_boxes, found None"
            reference = first_boxes.detach()  # (B, N, 4)
        else:
            reference = self.reference_points(position).float().sigmoid()  # (B, N, 2), then (B, N, 4)
        states, boxes = [], []
        for layer, box_head in zip(self.decoder, self.box_heads, strict=True):
            ratios = encoded.ratios.repeat(1, 1, reference.shape[-1] // 2)
            x = self._run_layer(
                layer,
                x,
                position,
                reference[:, :, None] * ratios[:, None],
                encoded.memory,
                encoded.shapes,
                encoded.keep,
                mask,
            )
            delta = box_head(x).float()
            logit = inverse_sigmoid(reference)
            if logit.shape[-1] == 2:
                logit = F.pad(logit, (0, 2))
            box = (delta + logit).sigmoid()
            reference = box.detach()
            states.append(x)
            boxes.append(box)
        return torch.stack(states), torch.stack(boxes)


class Encoded:
    """Output of the encoder.

    memory: (B, S, d). shapes: of the levels. keep: (B, S, 1) bool, False in the padding; None without
    padding. ratios: (B or 1, L, 2) unpadded share of each level, as x, y. Set later by the student: outputs
    of the `cells`, if queries start at boxes, and embeddings (B, D) of the `image`, in training.
    """

    def __init__(self, memory: Tensor, shapes: Shapes, keep: Tensor | None, ratios: Tensor) -> None:
        self.memory, self.shapes, self.keep, self.ratios = memory, shapes, keep, ratios
        self.cells: EncoderCells | None = None
        self.dense: EncoderCells | None = None
        """Outputs of the auxiliary head of the cells, in training."""
        self.image: Tensor | None = None
