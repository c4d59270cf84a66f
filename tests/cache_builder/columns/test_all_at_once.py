"""One pass over the photos makes the same bytes as one verb after another."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.columns import all_at_once as room
from cckt.cache_builder.columns.all_at_once import _pixels_of, cache_all, cache_photos
from cckt.cache_builder.columns.clip_priors import cache_clip_priors
from cckt.cache_builder.columns.crops import CropReader, cache_crops
from cckt.cache_builder.columns.images import cache_images
from cckt.cache_builder.columns.text import cache_text
from cckt.cache_builder.index import open_index
from cckt.cache_builder.runner import ExactPart
from cckt.cache_builder.teacher.clip import Teacher
from tests.cache_builder.samples import write_photos

COLUMNS = ("text", "crops", "images", "priors")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "set")


def column_bytes(data: Path, name: str) -> dict[str, bytes]:
    files = (path for path in sorted((data / name).rglob("*")) if path.is_file())
    return {str(path.relative_to(data)): path.read_bytes() for path in files}


def test_all_columns_byte_for_byte(data: Path, teacher: Teacher) -> None:
    (data.parent / "photos" / "004.png").write_bytes(b"")
    cache_text(data, teacher, templates="single")
    cache_crops(data, teacher, batch=4)
    cache_images(data, teacher, batch=4)
    cache_clip_priors(data)
    apart = {name: column_bytes(data, name) for name in COLUMNS}
    for name in COLUMNS:
        shutil.rmtree(data / name)
    reports = cache_all(data, teacher, templates="single", batch=4, workers=2)
    assert {name: column_bytes(data, name) for name in COLUMNS} == apart
    assert [report.name for report in reports] == ["text", "crops", "images", "priors/clip"]
    bad = "004.png is empty (0 bytes)"
    left_out = ["1 row: the box is a crowd", "1 row: the box is under 16 px on a side"]
    cannot_be_read = "photos ({share}) cannot be read, so their rows have no value"
    assert reports[1].notes == [f"warning: 1 of 5 {cannot_be_read.format(share='20%')}", *left_out, bad]
    assert reports[2].notes == [f"warning: 1 of 6 {cannot_be_read.format(share='17%')}", bad]


def test_each_photo_is_decoded_once(data: Path, teacher: Teacher, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[int] = []
    load = room.load_or_reason
    monkeypatch.setattr(
        room, "load_or_reason", lambda index, image, **kw: opened.append(image) or load(index, image, **kw)
    )
    cache_photos(data, teacher, batch=4, workers=0, chunk_rows=5)
    assert opened == [0, 1, 2, 3, 4, 5]
    shutil.rmtree(data / "images")
    opened.clear()
    reports = cache_photos(data, teacher, batch=4, workers=0, chunk_rows=5)
    assert opened == [0, 1, 2, 3, 4, 5]
    assert [report.made_chunks for report in reports] == [0, 2]
    assert cache_photos(data, teacher, batch=4, workers=0, chunk_rows=5)[1].made_chunks == 0


def test_teachers_with_other_grids_of_masks_share_no_crops(data: Path, teacher: Teacher) -> None:
    reader = CropReader(open_index(data), teacher.preprocess, "oadp", grid=14)
    assert _pixels_of(reader) == _pixels_of(replace(reader))
    assert _pixels_of(reader) != _pixels_of(replace(reader, grid=28))


def test_parts_share_the_photos_and_the_last_makes_the_priors(data: Path, teacher: Teacher) -> None:
    first = cache_all(data, teacher, templates="single", batch=4, workers=0, part=ExactPart((1, 2)))
    assert [report.name for report in first] == ["text", "crops", "images"]
    second = cache_all(data, teacher, templates="single", batch=4, workers=0, part=ExactPart((0, 2)))
    assert [report.name for report in second] == ["text", "crops", "images", "priors/clip"]
    assert all(report.manifest for report in second)


def test_mistakes_are_reported_before_anything_is_written(data: Path, teacher: Teacher) -> None:
    with pytest.raises(UserError, match="--crop round is not known"):
        cache_photos(data, teacher, crop="round")
    with pytest.raises(UserError, match="--batch is 0"):
        cache_photos(data, teacher, batch=0)
    assert not (data / "crops").exists()
