"""Embed sentences without the padding behind them.

A causal text tower reads a sentence from left to right, and its embedding is taken at the end token. So the
tokens after it never have an effect. open_clip computes them all the same: 24 to 77 positions for sentences
of about ten tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class ShortTexts:
    """The text tower of an open_clip CLIP model, for batches of tokens that end where its sentences end."""

    PARTS = ("token_embedding", "positional_embedding", "transformer", "ln_final", "text_projection")

    def __init__(self, model: nn.Module) -> None:
        self._model: Any = model

    @classmethod
    def of(cls, model: nn.Module) -> ShortTexts | None:
        """Return the text tower of a model; None if it is not causal, or of another kind."""
        known = all(hasattr(model, name) for name in cls.PARTS)
        if not known or getattr(model, "text_pool_type", None) not in ("argmax", "eos"):
            return None
        mask = getattr(model, "attn_mask", None)
        return cls(model) if isinstance(mask, Tensor) and _is_causal(mask) else None

    def ends(self, tokens: Tensor) -> Tensor:
        """Return (B,) positions of the end tokens of (B, L) tokens, at which the embedding is taken."""
        if self._model.text_pool_type == "eos":
            ends: Tensor = (tokens == self._model.text_eos_id).int().argmax(-1)
            return ends
        return tokens.argmax(-1)

    def lengths(self, tokens: Tensor) -> Tensor:
        """Return (B,) numbers of tokens up to the end token."""
        return self.ends(tokens) + 1

    def __call__(self, tokens: Tensor) -> Tensor:
        """Return (B, D) features of (B, L) tokens, not normalised; as `encode_text` of the model."""
        model, ends = self._model, self.ends(tokens)
        length = int(ends.max()) + 1
        kind = model.transformer.get_cast_dtype()
        x = model.token_embedding(tokens[:, :length]).to(kind) + model.positional_embedding[:length].to(kind)
        x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:length, :length]))
        x = x[torch.arange(len(x), device=x.device), ends]
        projection = model.text_projection
        if projection is None:
            projected: Tensor = x
        else:
            projected = projection(x) if isinstance(projection, nn.Linear) else x @ projection
        return projected


def _is_causal(mask: Tensor) -> bool:
    """Whether an additive attention mask excludes every later position."""
    side = mask.shape[0]
    return mask.shape == (side, side) and int(mask.triu(1).isneginf().sum()) == side * (side - 1) // 2
