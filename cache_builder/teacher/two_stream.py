"""OADP's ViT with a second class token that sees only the patches of a box (docs/method/hd_ovd.md, eqs. 9 and
10).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cckt.cache_builder.base.errors import UserError

OUTSIDE = -100.0
"""Attention bias of patches outside of the box (eq. 9)."""


class TwoStream:
    """The image tower of a CLIP ViT on a grid of half the stride, with a second class token.

    Attributes: `grid`, the patches G on a side, twice those of the tower.
    """

    def __init__(self, name: str, tower: Any) -> None:
        """name: of the teacher. Raises UserError for a tower that is no plain ViT with a class token."""
        blocks = getattr(getattr(tower, "transformer", None), "resblocks", None)
        plain = (
            blocks is not None
            and all(type(block).__name__ == "ResidualAttentionBlock" for block in blocks)
            and getattr(tower, "pool_type", "") == "tok"
            and getattr(tower, "attn_pool", None) is None
            and tower.grid_size[0] == tower.grid_size[1]
            and tower.patch_size[0] % 2 == 0
        )
        if not plain:
            raise UserError(
                "--crop oadp needs a CLIP whose image tower is a ViT with a class token, and teacher "
                f"{name} has a {type(tower).__name__}; use --crop square, or a teacher such as "
                "ViT-B-32/openai."
            )
        self._tower = tower
        self.grid = 2 * int(tower.grid_size[0])

    def __call__(self, pixels: Tensor, foreground: Tensor) -> Tensor:
        """Return features (B, D), not of unit length, of the parts of images that are foreground.

        pixels: (B, 3, S, S), normalised. foreground: (B, G, G) bool. With all patches as foreground the
        features are those of the ordinary class token on this grid.
        """
        tower = self._tower
        x = tower.ln_pre(self._embed(pixels))
        z = x[:, :1]  # a copy of the first class token after the first layer norm
        bias = torch.where(foreground.flatten(1), 0.0, OUTSIDE)
        bias = F.pad(bias, (0, 1))[:, None, None]  # the second class token sees itself; (B, 1, 1, G * G + 1)
        for block in tower.transformer.resblocks:
            z, x = _second_token(block, x, z, bias), _apply(block, x)
        pooled: Tensor = tower.ln_post(z[:, 0])
        return pooled if tower.proj is None else pooled @ tower.proj

    def _embed(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) -> tokens (B, 1 + G * G, width): the class token, then patches row by row."""
        tower, patch = self._tower, int(self._tower.patch_size[0])
        x = F.conv2d(pixels, tower.conv1.weight, tower.conv1.bias, stride=patch // 2, padding=patch // 2 - 1)
        assert x.shape[-1] == self.grid, f"expected a grid of {self.grid}, found {x.shape[-1]}"
        old, positions = self.grid // 2, tower.positional_embedding
        patches = positions[1:].T.reshape(1, -1, old, old)
        patches = F.interpolate(patches, size=(self.grid, self.grid), mode="bilinear", align_corners=False)
        first = (tower.class_embedding + positions[0]).expand(len(x), 1, -1)
        return torch.cat([first.to(x.dtype), (x + patches.to(x.dtype)).flatten(2).transpose(1, 2)], 1)


def _apply(block: Any, x: Tensor) -> Tensor:
    """The block on the ordinary tokens (B, T, width), which never see the second class token."""
    if block.attn.batch_first:
        out: Tensor = block(x)
        return out
    turned: Tensor = block(x.transpose(0, 1)).transpose(0, 1)
    return turned


def _second_token(block: Any, x: Tensor, z: Tensor, bias: Tensor) -> Tensor:
    """The second class token (B, 1, width) after a block (eq. 10), with tokens as they enter the block."""
    query, seen = block.ln_1(z), block.ln_1(torch.cat([x[:, 1:], z], 1))
    z = z + block.ls_1(_attention(block.attn, query, seen, bias))
    out: Tensor = z + block.ls_2(block.mlp(block.ln_2(z)))
    return out


def _attention(attention: nn.MultiheadAttention, query: Tensor, seen: Tensor, bias: Tensor) -> Tensor:
    """Multi-head attention of (B, 1, width) on (B, T, width); bias: (B, 1, 1, T), added to the logits."""
    assert attention.in_proj_bias is not None, "expected attention with biases"
    weights = attention.in_proj_weight.chunk(3)
    biases = attention.in_proj_bias.chunk(3)

    def heads(tokens: Tensor, part: int) -> Tensor:
        made = F.linear(tokens, weights[part], biases[part])
        return made.view(*made.shape[:2], attention.num_heads, -1).transpose(1, 2)

    q, k, v = heads(query, 0), heads(seen, 1), heads(seen, 2)
    found = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
    return F.linear(found.transpose(1, 2).flatten(2), attention.out_proj.weight, attention.out_proj.bias)
