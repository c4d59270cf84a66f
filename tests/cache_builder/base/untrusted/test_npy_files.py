"""Damaged .npy files raise ValueError and nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cckt.cache_builder.base.untrusted.npy_files import read_npy


def test_every_flip_in_a_head_gives_an_array_or_a_value_error(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.arange(6))
    whole = path.read_bytes()
    refused = 0
    for at in range(128):
        for bit in range(8):
            damaged = bytearray(whole)
            damaged[at] ^= 1 << bit
            path.write_bytes(damaged)
            try:
                assert isinstance(read_npy(path), np.ndarray)
            except ValueError:
                refused += 1
    assert refused > 400


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"PK\x03\x04", b"x" * 300])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(ValueError):
        read_npy(tmp_path / "a.npy")
    np.savez(tmp_path / "b.npz", a=np.arange(3))
    with pytest.raises(ValueError, match="archive"):
        read_npy(tmp_path / "b.npz")
