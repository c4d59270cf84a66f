"""Run the vision tower once per image in a batch of questions about one image.

In such a batch every row has the same pixels. The vision tower is the larger part of many models (a ViT of a
billion parameters before a T5 that reads 50 tokens), so it runs for the first row and its output is repeated.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from cckt.cache_builder.mllm.prefix_cache import StrategyUnsupported

TOWERS = ("vision_tower", "vision_model", "visual", "vision_encoder")
"""Names of the vision tower in models of transformers."""


@contextmanager
def run_vision_once(model: Any, rows: int, memory: dict[str, Any]) -> Iterator[None]:
    """In the block, run the vision tower of `model` for the first of `rows` equal rows of pixels, or not.

    memory: empty for a new image. Keeps the tower's output, so that further blocks do not run it.
    """
    tower = vision_tower(model)
    if tower is None:
        raise StrategyUnsupported(f"its vision tower has none of the names {', '.join(TOWERS)}")
    run = tower.forward

    def run_once(*args: Any, **kwargs: Any) -> Any:
        pixels = args[0] if args else kwargs["pixel_values"]
        if pixels.shape[0] % rows:
            raise StrategyUnsupported("its pixels are not divided into rows")
        size = pixels.shape[0] // rows

        def first(value: Any) -> Any:
            whole = torch.is_tensor(value) and value.ndim > 0 and value.shape[0] == pixels.shape[0]
            return value[:size] if whole else value

        if "output" not in memory:
            memory["output"] = run(*map(first, args), **{key: first(value) for key, value in kwargs.items()})
        return _repeated(memory["output"], size, rows)

    tower.forward = run_once
    try:
        yield
    finally:
        del tower.forward  # uncovers the method of the class


def vision_tower(model: Any) -> Any:
    """Return the vision tower, None where it has none of the names in TOWERS."""
    for owner in (model, getattr(model, "model", None)):
        for name in TOWERS:
            tower = getattr(owner, name, None)
            if isinstance(tower, torch.nn.Module):
                return tower
    return None


def _repeated(output: Any, size: int, rows: int) -> Any:
    """Repeat the output for `size` images `rows` times; views where `size` is 1."""
    if torch.is_tensor(output):
        if output.ndim == 0 or output.shape[0] != size:
            return output
        rest = output.shape[1:]
        return output.expand(rows, *rest) if size == 1 else output.repeat(rows, *[1] * len(rest))
    if isinstance(output, dict):  # transformers' outputs are dicts with attributes
        return type(output)(**{key: _repeated(value, size, rows) for key, value in output.items()})
    if isinstance(output, tuple | list):
        return type(output)(_repeated(value, size, rows) for value in output)
    return output
