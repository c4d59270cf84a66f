"""Text embeddings of concepts that were asked for before, kept in a folder of the user.

`cckt predict` with 1,203 words has 14,436 sentences to embed, which takes as long as hundreds of photos. One
safetensors file per recipe (weights, architecture, precision, device, templates) holds a row per concept. It
is only a cache: a file that is damaged, of another recipe or not writable is ignored.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from cckt.cache_builder.base.atomic_files import write_bytes
from cckt.cache_builder.base.digests import digest_of
from cckt.cache_builder.base.untrusted.regular_files import require_regular
from cckt.cache_builder.base.untrusted.text import parse_json

FOLDER = "CCKT_CACHE"
"""Environment variable: the folder of the cache, or "off" for none."""
MOST = 50_000
"""Most concepts that a file holds; the oldest are dropped."""


def user_cache() -> Path | None:
    """Return the folder of cached embeddings: $CCKT_CACHE, else cckt in the user's cache folder.

    None if it is off.
    """
    given = os.environ.get(FOLDER, "")
    if given:
        return None if given == "off" else Path(given)
    base = os.environ.get("XDG_CACHE_HOME", "")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "cckt"
    except RuntimeError:  # no home folder
        return None


class TextCache:
    """Rows (D,) float32 of concepts by their wordings, for one recipe.

    recipe: everything that determines an embedding, as JSON.
    """

    def __init__(self, folder: Path, recipe: dict[str, Any]) -> None:
        self._digest = digest_of(json.dumps(recipe, sort_keys=True).encode())
        self.path = folder / f"text-{self._digest.rpartition(':')[2][:32]}.safetensors"

    def read(self) -> dict[str, NDArray[np.float32]]:
        """Return the known rows by key; {} without a readable file."""
        try:
            with safe_open(require_regular(self.path), "numpy") as file:
                about = file.metadata() or {}
                keys, rows = parse_json(about.get("keys", "[]").encode()), file.get_tensor("rows")
        except (OSError, ValueError, SafetensorError):
            return {}
        good = about.get("recipe") == self._digest and rows.ndim == 2 and rows.dtype == np.float32
        if not good or not isinstance(keys, list) or len(keys) != len(rows) or not np.isfinite(rows).all():
            return {}
        return dict(zip(map(str, keys), rows, strict=True))

    def add(self, keys: Sequence[str], rows: NDArray[np.float32]) -> None:
        """Add (N, D) rows. Of two processes that write at once, the last one wins."""
        known = self.read() | dict(zip(keys, rows, strict=True))
        kept = list(known.items())[-MOST:]
        about = {"recipe": self._digest, "keys": json.dumps([key for key, _ in kept])}
        content = save({"rows": np.stack([row for _, row in kept])}, about)
        with suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(self.path, content)


def key_of(wordings: Sequence[str]) -> str:
    """Return the key of a concept: its wordings as JSON."""
    return json.dumps(list(wordings))
