"""Sizes and orientations are read without pixels, and a bad file is no fault."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from cckt.cache_builder.base.progress import Silent
from cckt.cache_builder.index.photo_files.headers import read_header, read_headers
from tests.cache_builder.index.photo_files.samples import save_photo


def test_no_names_give_no_headers(tmp_path: Path) -> None:
    headers = read_headers(tmp_path, [], Silent())
    assert headers.stored.shape == headers.turned.shape == (0, 2)


def test_a_header_has_the_stored_size_and_the_orientation(tmp_path: Path) -> None:
    save_photo(tmp_path / "a.jpg", (60, 40), 6)
    save_photo(tmp_path / "b.png", (30, 20), 3)
    save_photo(tmp_path / "c.png", (7, 5))
    (tmp_path / "d.jpg").write_bytes(b"no photo")
    headers = read_headers(tmp_path, ["a.jpg", "b.png", "c.png", "d.jpg", "e.jpg"], Silent())
    assert headers.stored.tolist() == [[60, 40], [30, 20], [7, 5], [0, 0], [0, 0]]
    assert headers.orientations.tolist() == [6, 3, 1, 1, 1]
    assert headers.turned.tolist() == [[40, 60], [30, 20], [7, 5], [0, 0], [0, 0]]


def test_an_orientation_that_does_not_exist_is_none(tmp_path: Path) -> None:
    save_photo(tmp_path / "a.jpg", (60, 40), 9)
    assert read_header(tmp_path / "a.jpg") == (60, 40, 1)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jpg")
    assert read_header(tmp_path / "a.jpg") is None


def test_a_truncated_photo_has_its_header(tmp_path: Path) -> None:
    Image.effect_noise((200, 100), 50).save(tmp_path / "a.jpg")
    content = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(content[: len(content) // 2])
    assert read_header(tmp_path / "a.jpg") == (200, 100, 1)
