"""Masks, positions and key-value caches of suffixes behind a shared prefix.

Shapes: P tokens of the prefix, N tokens of all packed suffixes together, R rows (suffixes), S tokens per row,
W the window of a sliding-attention layer.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer


class StrategyUnsupported(Exception):
    """This strategy does not fit the model; another one does. The message says why."""


def packed_mask(
    lengths: list[int], prefix: int, kept: int, window: int | None, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Return a (1, 1, N, kept + N) additive mask: 0 where a token may attend, the dtype's minimum elsewhere.

    lengths: tokens of each suffix. A suffix attends to the prefix and, causally, to itself, never to another
        suffix.
    prefix: P. kept: how many of the prefix's last tokens the layer's cache holds.
    window: W; a token attends to itself and to the W - 1 tokens before it, as if its suffix were the only one
        behind the prefix. None: no window.
    """
    suffix = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    at = prefix + torch.cat([torch.arange(length) for length in lengths])
    cached = torch.arange(prefix - kept, prefix)
    to_prefix = torch.ones(len(at), kept, dtype=torch.bool)
    to_suffix = (suffix[:, None] == suffix[None]) & (at[:, None] >= at[None])
    if window is not None:
        to_prefix &= at[:, None] - cached[None] < window
        to_suffix &= at[:, None] - at[None] < window
    allowed = torch.cat([to_prefix, to_suffix], dim=1)
    mask = torch.zeros(allowed.shape, dtype=dtype).masked_fill_(~allowed, torch.finfo(dtype).min)
    return mask[None, None].to(device)


def packed_masks(model: Any, cache: Any, lengths: list[int], prefix: int) -> Any:
    """Return the mask that `model` takes for packed suffixes: one tensor, or a dict by kind of layer.

    Raises StrategyUnsupported for layers that carry a state instead of keys and values.
    """
    kinds = layer_kinds(model, cache)
    masks: dict[str, Tensor] = {}
    for kind, layer in zip(kinds, cache.layers, strict=False):
        if not appends_keys(layer):
            raise StrategyUnsupported(f"its cache has layers of type {type(layer).__name__}")
        if kind not in masks:
            window = layer.sliding_window if layer.is_sliding else None
            masks[kind] = packed_mask(
                lengths, prefix, layer.keys.shape[-2], window, layer.keys.dtype, layer.keys.device
            )
    return masks if len(masks) > 1 else next(iter(masks.values()))


def layer_kinds(model: Any, cache: Any) -> list[str]:
    """Return the model's name for the kind of each layer: "full_attention", "sliding_attention", ..."""
    kinds = getattr(model.config.get_text_config(), "layer_types", None)
    return list(kinds) if kinds else ["full_attention"] * len(cache.layers)


def appends_keys(layer: Any) -> bool:
    """Return whether a cache layer grows by concatenation, so that a copy of it leaves the original as is."""
    return type(layer) in (DynamicLayer, DynamicSlidingWindowLayer)


def fork_cache(cache: Any, rows: int = 1) -> Any:
    """Return the cache of one image as the cache of `rows` questions. The original does not change.

    Keys and values stay views until something is appended. Layers that update in place are copied.
    """
    if not hasattr(cache, "layers"):
        raise StrategyUnsupported(f"its cache is a {type(cache).__name__}")
    fork = copy.copy(cache)
    fork.layers = [_fork_layer(layer, rows) for layer in cache.layers]
    return fork


def _fork_layer(layer: Any, rows: int) -> Any:
    if appends_keys(layer):
        fork = copy.copy(layer)
        if rows > 1:
            fork.keys = layer.keys.expand(rows, *layer.keys.shape[1:])
            fork.values = layer.values.expand(rows, *layer.values.shape[1:])
        return fork
    fork = copy.deepcopy(layer)
    fork.reorder_cache(torch.zeros(rows, dtype=torch.long))  # every layer supports this, for beam search
    return fork


def cache_argument(model: Any) -> str:
    """Return the name of the argument, and of the output field, that holds a model's cache.

    Newer versions of transformers call it "cache" and warn about "past_key_values".
    """
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


@contextmanager
def record_positions(model: Any) -> Iterator[list[Tensor]]:
    """Collect the position ids that the language model rotates its tokens by, whichever module computes them.

    They are (1, P), or (3, 1, P) where images have rows and columns; some models count from 1. Tokens behind
    the prefix continue from the largest.
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
    """Return the language model inside a multimodal LLM."""
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else None
    return decoder if decoder is not None else model


def positions_after(prefix: Tensor | None, offsets: Tensor) -> Tensor | None:
    """Return the positions of tokens at `offsets` (R, S) behind the prefix, in the shape the model takes.

    prefix: what `record_positions` found; None where it found nothing, since the model counts by itself.
    """
    if prefix is None:
        return None
    positions = offsets.to(prefix.device) + prefix.max() + 1
    return positions.expand(prefix.shape[0], *positions.shape) if prefix.ndim == 3 else positions
