"""Digests, "sha256:<64 hex digits>" each, of bytes and of files."""

from __future__ import annotations

import hashlib
from pathlib import Path

from cckt.cache_builder.base.untrusted.regular_files import require_regular


def digest_of(data: bytes | memoryview) -> str:
    """Return the digest of bytes (of an array: `array.data`)."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def file_digest(path: Path) -> str:
    """Return the digest of a file's bytes; OSError if it cannot be read."""
    with require_regular(path).open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
