"""Photos that are in two data sets: the same file, or a copy under another name."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cckt.cache_builder.index import Index, build_index, open_index, shared_note, shared_photos
from tests.cache_builder.index.photo_files.samples import export, save_export


def build(folder: Path, photos: Path, names: list[str], *, digests: bool = True) -> Index:
    folder.mkdir()
    coco = export(*((name, (30, 20), [[1, 2, 5, 6]]) for name in names))
    build_index(save_export(folder, coco), photos, folder, "all-base", digests=digests)
    return open_index(folder)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 255, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number}.png")
    return tmp_path / "photos"


def test_different_photos_are_not_shared(photos: Path, tmp_path: Path) -> None:
    train = build(tmp_path / "train", photos, ["0.png", "1.png"])
    val = build(tmp_path / "val", photos, ["2.png", "3.png"])
    assert shared_photos(train, val).tolist() == []
    assert shared_note(train, val) == ""


def test_a_copy_under_another_name_is_shared_if_digests_are_known(photos: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(photos / "1.png", other / "copy.png")
    shutil.copy(photos / "3.png", other / "1.png")
    train = build(tmp_path / "train", photos, ["0.png", "1.png"])
    val = build(tmp_path / "val", other, ["1.png", "copy.png"])
    assert shared_photos(train, val).tolist() == [1], "the name alone does not count"
    assert "1 photo is both in " in shared_note(train, val)
    assert "the first is copy.png" in shared_note(train, val)
    without = build(tmp_path / "plain", other, ["1.png", "copy.png"], digests=False)
    assert shared_photos(train, without).tolist() == []


@pytest.mark.parametrize("digests", [True, False])
def test_the_same_file_is_shared(photos: Path, tmp_path: Path, digests: bool) -> None:
    train = build(tmp_path / "train", photos, ["0.png", "1.png"], digests=digests)
    (tmp_path / "link").symlink_to(photos)
    val = build(tmp_path / "val", tmp_path / "link", ["0.png", "1.png", "2.png"], digests=digests)
    assert shared_photos(train, val).tolist() == [0, 1]
    assert "2 photos are both in" in shared_note(train, val)
    assert "which has 3" in shared_note(train, val)
