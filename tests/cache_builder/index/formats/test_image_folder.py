"""Folders of photos without annotations, and COCO files without boxes."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.index import build_index, open_index, verify_index
from cckt.cache_builder.index.formats.coco import read_coco
from cckt.cache_builder.index.formats.image_folder import read_folder
from cckt.cache_builder.photos import load_row
from tests.cache_builder.index.coco_files import small_coco, write_coco
from tests.cache_builder.index.photo_files.samples import save_photo


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UserError, match="holds no images, expected files such as"):
        build_index(tmp_path, tmp_path, tmp_path / "out", "all-base", read=read_folder)


def test_a_folder_gives_its_photos_by_name(tmp_path: Path) -> None:
    save_photo(tmp_path / "photos/b/x.PNG", (30, 20))
    save_photo(tmp_path / "photos/a.jpg", (60, 40), 6)
    save_photo(tmp_path / "photos/c.jpg", (60, 40), 3)
    (tmp_path / "photos/notes.txt").touch()
    (tmp_path / "photos/._a.jpg").write_bytes(b"metadata of a Mac")
    save_photo(tmp_path / "photos/.thumbnails/a.jpg", (6, 4))
    photos = tmp_path / "photos"
    report = build_index(photos, photos, tmp_path / "out", "all-base", read=read_folder)
    index = open_index(tmp_path / "out")
    assert [index.file_name(row) for row in range(3)] == ["a.jpg", "b/x.PNG", "c.jpg"]
    assert [load_row(index, row).size for row in range(3)] == [(40, 60), (30, 20), (60, 40)]
    assert (report.boxes, len(index.concepts), index.exif) == (0, 0, "apply")
    assert f"1 image is in sub-folders of {photos}" in report.lines()
    assert verify_index(index)


def test_names_give_concepts(tmp_path: Path) -> None:
    save_photo(tmp_path / "photos/a.jpg", (60, 40))
    read = partial(read_folder, names=["cat", "dog"])
    build_index(tmp_path / "photos", tmp_path / "photos", tmp_path / "out", "all-base", read=read)
    assert open_index(tmp_path / "out").concepts.names == ["cat", "dog"]


def test_a_photo_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    save_photo(tmp_path / "photos/a.jpg", (60, 40))
    (tmp_path / "photos/b.jpg").write_bytes(b"none")
    with pytest.raises(
        UserError, match=r"1 of 2 photos cannot be read, .*b\.jpg: it is not an image in a supported format"
    ):
        build_index(tmp_path / "photos", tmp_path / "photos", tmp_path / "out", "all-base", read=read_folder)


def test_an_image_info_file_needs_unlabelled(tmp_path: Path) -> None:
    coco = small_coco()
    boxes = coco.pop("annotations")
    path, images = write_coco(tmp_path, coco)
    with pytest.raises(UserError, match=r"the key 'annotations' is missing .*; add --unlabelled"):
        build_index(path, images, tmp_path / "out", "all-base")
    read = partial(read_coco, unlabelled=True)
    report = build_index(path, images, tmp_path / "out", "all-base", read=read)
    assert (report.images, report.boxes, len(open_index(tmp_path / "out").concepts)) == (3, 0, 3)
    write_coco(tmp_path, {**coco, "annotations": boxes})
    with pytest.raises(UserError, match="has annotations, expected none with --unlabelled"):
        build_index(path, images, tmp_path / "out", "all-base", read=read)
