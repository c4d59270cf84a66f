"""index.json, the card of an index: its text, and the digests that protect it and the files of the tables.

Cards of earlier versions have neither entry; the tables of such an index are checked by their contents.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cckt.cache_builder.base.digests import digest_of
from cckt.cache_builder.index.tables import DTYPES, Tables

FILES, SEAL = "files", "card_digest"
"""Entries of a card: file of a table -> digest of its bytes, and the digest of all other entries."""


def sealed_card(card: Mapping[str, Any], tables: Tables) -> dict[str, Any]:
    """Return a card with the digests of the files of `tables` and its own digest."""
    entries = {key: value for key, value in card.items() if key not in (FILES, SEAL, "concepts")}
    files = {
        f"{name}.npy": _npy_digest(np.asarray(getattr(tables, name), DTYPES[name])) for name in tables.names
    }
    sealed = {**entries, FILES: files, **{key: card[key] for key in ("concepts",) if key in card}}
    return {**sealed, SEAL: card_digest(sealed)}


def card_text(card: Mapping[str, Any]) -> str:
    """Return the text of index.json."""
    return json.dumps(card, indent=1, ensure_ascii=False) + "\n"


def card_digest(card: Mapping[str, Any]) -> str:
    """Return the digest of the entries of a card without SEAL, whatever their order."""
    entries = {key: value for key, value in card.items() if key != SEAL}
    text = json.dumps(entries, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return digest_of(text.encode("utf-8", "surrogatepass"))


def is_sealed(card: Mapping[str, Any]) -> bool:
    """Return whether a card has digests; False for cards of earlier versions."""
    return FILES in card or SEAL in card


def _npy_digest(values: NDArray[Any]) -> str:
    """Return the digest of the file that np.save writes, without writing it."""
    head = io.BytesIO()
    values = np.ascontiguousarray(values)
    np.lib.format.write_array_header_1_0(head, np.lib.format.header_data_from_array_1_0(values))
    digest = hashlib.sha256(head.getvalue())
    digest.update(values.reshape(-1).view(np.uint8).data)
    return "sha256:" + digest.hexdigest()
