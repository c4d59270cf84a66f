"""Many suffixes in one row behind a shared prefix: their positions, masks and caches.

Shapes: P tokens of prefix, N tokens of all packed suffixes together, W the window of a sliding layer.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer


class NotShareable(Exception):
    """This way of asking does not fit the model; another one does."""


def packed_mask(
    lengths: list[int], prefix: int, kept: int, window: int | None, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """(1, 1, N, kept + N) additive mask: 0 where a token may look, the dtype's minimum elsewhere.

    lengths: of the suffixes. Each looks at the prefix and, causally, at itself, never at a neighbour. kept:
    how many of the prefix's last tokens the layer's cache holds; window: a token sees itself and the
    window - 1 before it, counted as if its suffix stood alone behind the prefix.
    """
    suffix = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    at = prefix + torch.cat([torch.arange(length) for length in lengths])
    cached = torch.arange(prefix - kept, prefix)
    behind = torch.ones(len(at), kept, dtype=torch.bool)
    beside = (suffix[:, None] == suffix[None]) & (at[:, None] >= at[None])
    if window is not None:
        behind &= at[:, None] - cached[None] < window
        beside &= at[:, None] - at[None] < window
    allowed = torch.cat([behind, beside], dim=1)
    mask = torch.zeros(allowed.shape, dtype=dtype).masked_fill_(~allowed, torch.finfo(dtype).min)
    return mask[None, None].to(device)


def packed_masks(model: Any, cache: Any, lengths: list[int], prefix: int) -> Any:
    """The mask that `model` takes for packed suffixes: one tensor, or one a kind of layer.

    Raises NotShareable for layers that carry a state instead of keys and values.
    """
    kinds = layer_kinds(model, cache)
    masks: dict[str, Tensor] = {}
    for kind, layer in zip(kinds, cache.layers, strict=False):
        if not is_plain(layer):
            raise NotShareable(f"its cache has layers of kind {type(layer).__name__}")
        if kind not in masks:
            window = layer.sliding_window if layer.is_sliding else None
            masks[kind] = packed_mask(
                lengths, prefix, layer.keys.shape[-2], window, layer.keys.dtype, layer.keys.device
            )
    return masks if len(masks) > 1 else next(iter(masks.values()))


def layer_kinds(model: Any, cache: Any) -> list[str]:
    """What the model calls the kind of each of its layers ("full_attention", "sliding_attention", ...)."""
    kinds = getattr(model.config.get_text_config(), "layer_types", None)
    return list(kinds) if kinds else ["full_attention"] * len(cache.layers)


def is_plain(layer: Any) -> bool:
    """Whether a cache layer grows by concatenation, so that a branch of it leaves the trunk alone."""
    return type(layer) in (DynamicLayer, DynamicSlidingWindowLayer)


def branch(cache: Any, rows: int = 1) -> Any:
    """The cache of one photo as the cache of `rows` questions; the cache itself stays as it is.

    Keys and values are views as long as nothing is appended. Layers that update in place are copied.
    """
    if not hasattr(cache, "layers"):
        raise NotShareable(f"its cache is a {type(cache).__name__}")
    twin = copy.copy(cache)
    twin.layers = [_branch(layer, rows) for layer in cache.layers]
    return twin


def _branch(layer: Any, rows: int) -> Any:
    if is_plain(layer):
        twin = copy.copy(layer)
        if rows > 1:
            twin.keys = layer.keys.expand(rows, *layer.keys.shape[1:])
            twin.values = layer.values.expand(rows, *layer.values.shape[1:])
        return twin
    twin = copy.deepcopy(layer)
    twin.reorder_cache(torch.zeros(rows, dtype=torch.long))  # what beam search asks of every layer
    return twin


@contextmanager
def positions_seen(model: Any) -> Iterator[list[Tensor]]:
    """Collect the position ids that the language model turns its tokens by, whoever computed them.

    They are (1, P), or (3, 1, P) where pictures have rows and columns; some models count from 1. What comes
    after a prefix goes on from the largest.
    """
    seen: list[Tensor] = []

    def note(module: Any, args: Any, kwargs: Any) -> None:
        found = kwargs.get("position_ids", args[1] if len(args) > 1 else None)
        if torch.is_tensor(found) and not seen:
            seen.append(found)

    handles = [
        module.register_forward_pre_hook(note, with_kwargs=True)
        for module in text_model(model).modules()
        if "RotaryEmbedding" in type(module).__name__ and "Vision" not in type(module).__name__
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def text_model(model: Any) -> Any:
    """The half that reads words."""
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else None
    return decoder if decoder is not None else model


def following(seen: Tensor | None, offsets: Tensor) -> Tensor | None:
    """Positions of tokens that stand `offsets` (R, S) behind the prefix, in the shape the model takes.

    seen: what `positions_seen` noted of the prefix; None where nothing was: the model counts by itself.
    """
    if seen is None:
        return None
    positions = offsets.to(seen.device) + seen.max() + 1
    return positions.expand(seen.shape[0], *positions.shape) if seen.ndim == 3 else positions
