"""Looking at a photo once, for models whose words cannot share it.

Where questions stand side by side, the same pixels stand in every row. The tower that sees them is the
larger part of many models (a ViT of a billion parameters before a T5 that reads 50 tokens), so it works for
the first row and its answer is repeated.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from cckt.cache_builder.mllm.packing import NotShareable

TOWERS = ("vision_tower", "vision_model", "visual", "vision_encoder")


@contextmanager
def seen_once(model: Any, rows: int, memory: dict[str, Any]) -> Iterator[None]:
    """Within, the vision tower of `model` works for the first of `rows` equal rows of pixels, if at all.

    memory: empty for a new photo; its answer is kept there for the next block.
    """
    tower = vision_tower(model)
    if tower is None:
        raise NotShareable("its vision tower has no name that is known")
    look = tower.forward

    def once(*args: Any, **kwargs: Any) -> Any:
        pixels = args[0] if args else kwargs["pixel_values"]
        if pixels.shape[0] % rows:
            raise NotShareable("its pixels do not lie in rows")
        size = pixels.shape[0] // rows

        def first(value: Any) -> Any:
            whole = torch.is_tensor(value) and value.ndim > 0 and value.shape[0] == pixels.shape[0]
            return value[:size] if whole else value

        if "seen" not in memory:
            memory["seen"] = look(*map(first, args), **{key: first(value) for key, value in kwargs.items()})
        return _repeated(memory["seen"], size, rows)

    tower.forward = once
    try:
        yield
    finally:
        del tower.forward  # the class's own comes back


def vision_tower(model: Any) -> Any:
    """The half that sees, None where it has no name that is known."""
    for owner in (model, getattr(model, "model", None)):
        for name in TOWERS:
            tower = getattr(owner, name, None)
            if isinstance(tower, torch.nn.Module):
                return tower
    return None


def _repeated(seen: Any, size: int, rows: int) -> Any:
    """An answer for `size` pictures as one for `rows` times as many; views where there is one picture."""
    if torch.is_tensor(seen):
        if seen.ndim == 0 or seen.shape[0] != size:
            return seen
        rest = seen.shape[1:]
        return seen.expand(rows, *rest) if size == 1 else seen.repeat(rows, *[1] * len(rest))
    if isinstance(seen, dict):  # transformers' outputs are dicts with attributes
        return type(seen)(**{key: _repeated(value, size, rows) for key, value in seen.items()})
    if isinstance(seen, tuple | list):
        return type(seen)(_repeated(value, size, rows) for value in seen)
    return seen
