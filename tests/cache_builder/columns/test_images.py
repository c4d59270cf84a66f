"""The column `images`: whole photos, and what happens to the bad ones."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.columns.images import cache_images
from cckt.cache_builder.columns.options import check_numbers
from cckt.cache_builder.index import build_index, open_index
from cckt.cache_builder.photos import load_row
from cckt.cache_builder.runner import ExactPart
from cckt.cache_builder.store import open_column
from cckt.cache_builder.teacher.clip import Teacher
from tests.cache_builder.samples import index_photos, write_photos, write_teacher


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "set", photos=7)


class Notebook:
    """A Progress that keeps its notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.done = 0

    def start(self, label: str, total: int, unit: str) -> None:
        self.label, self.total, self.unit = label, total, unit

    def advance(self, n: int = 1, **figures: float | str) -> None:
        self.done += n

    def note(self, message: str) -> None:
        self.notes.append(message)

    def finish(self) -> None:
        pass


def column_bytes(data: Path, name: str) -> dict[str, bytes]:
    return {
        str(path.relative_to(data / name)): path.read_bytes()
        for path in sorted((data / name).rglob("*"))
        if path.is_file()
    }


def test_rows_equal_open_clip_called_directly(data: Path, teacher: Teacher) -> None:
    progress = Notebook()
    report = cache_images(data, teacher, batch=3, workers=2, chunk_rows=4, progress=progress)
    assert (report.rows, report.invalid, report.made_chunks, report.notes) == (7, 0, 2, [])
    assert (progress.label, progress.total, progress.done, progress.unit) == ("images", 7, 7, "photos")
    index = open_index(data)
    column = open_column(data, "images", index_digest=index.digest)
    assert column.dtype == np.float16
    model, _, transform = open_clip.create_model_and_transforms(teacher.name)
    for image in range(7):
        pixels = transform(Image.open(index.photo_path(image)).convert("RGB"))[None]
        with torch.no_grad():
            expected = F.normalize(model.eval().encode_image(pixels), dim=-1)[0].numpy()
        np.testing.assert_allclose(column.take([image])[0], expected, atol=1e-3)


def test_workers_and_parts_change_no_byte(data: Path, teacher: Teacher) -> None:
    cache_images(data, teacher, batch=3, workers=0, chunk_rows=2)
    single = column_bytes(data, "images")
    shutil.rmtree(data / "images")
    first = cache_images(data, teacher, batch=3, workers=3, chunk_rows=2, part=ExactPart((1, 2)))
    assert first.manifest is None
    assert first.lines()[-1] == "not finished: other parts have chunks to make"
    second = cache_images(data, teacher, batch=3, workers=3, chunk_rows=2, part=ExactPart((0, 2)))
    assert second.manifest is not None
    assert column_bytes(data, "images") == single


def break_photos(data: Path) -> None:
    photos = data.parent / "photos"
    (photos / "000.png").unlink()
    (photos / "002.png").write_bytes(b"")
    Image.new("RGB", (5, 5)).save(photos / "004.png")


def test_bad_photos_leave_invalid_rows_and_a_line(data: Path, teacher: Teacher) -> None:
    break_photos(data)
    progress = Notebook()
    report = cache_images(data, teacher, chunk_rows=3, progress=progress)
    column = open_column(data, "images")
    np.testing.assert_array_equal(column.valid_all(), [False, True, False, True, False, True, True])
    np.testing.assert_array_equal(column.all()[[0, 2, 4]], 0)
    assert report.invalid == 3
    assert report.notes == progress.notes
    assert report.notes[0].startswith("warning: 3 of 7 photos (43%) cannot be read")
    assert report.notes[1:3] == ["000.png does not exist", "002.png is empty (0 bytes)"]
    assert "is 5 x 5 where the annotations say" in report.notes[3]
    assert progress.done == 7
    assert "7 rows, 3 without a value" in report.lines()[0]
    assert json.loads(json.dumps(report.to_json()))["invalid"] == 3


def test_strict_stops_at_a_bad_photo_and_resumes_once_it_is_repaired(data: Path, teacher: Teacher) -> None:
    photo = data.parent / "photos" / "005.png"
    kept = photo.read_bytes()
    photo.write_bytes(kept[:50])
    with pytest.raises(UserError, match=r"005\.png: cannot be decoded: .*; repair it or remove it"):
        cache_images(data, teacher, strict=True, chunk_rows=2)
    photo.write_bytes(kept)
    report = cache_images(data, teacher, strict=True, chunk_rows=2)
    assert report.invalid == 0
    assert report.skipped_chunks >= 1


def test_strict_refuses_rows_that_an_earlier_run_left_out(data: Path, teacher: Teacher) -> None:
    break_photos(data)
    cache_images(data, teacher)
    with pytest.raises(UserError, match=r"lacks rows of 3 bad photos \(000\.png does not exist\); repair"):
        cache_images(data, teacher, strict=True)


def test_a_vanished_folder_stops_the_run(data: Path, teacher: Teacher) -> None:
    index = open_index(data)
    os.rename(data.parent / "photos", data.parent / "moved")
    for call in (lambda: cache_images(data, teacher), lambda: load_row(index, 0)):
        with pytest.raises(UserError, match=r"the folder of the photos of .* does not exist; restore it"):
            call()
    assert not (data / "images").exists()


def test_a_photo_turned_by_exif_is_used_as_it_was_annotated(tmp_path: Path, teacher: Teacher) -> None:
    data = write_photos(tmp_path / "set", photos=1)
    path = data.parent / "photos" / "000.png"
    upright = Image.open(path).convert("RGB")
    cache_images(data, teacher)
    before = open_column(data, "images").all()
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side
    upright.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)
    index_photos(tmp_path / "set")
    cache_images(data, teacher, overwrite=True)
    np.testing.assert_array_equal(open_column(data, "images").all(), before)


def test_the_recipe_is_complete(data: Path, teacher: Teacher) -> None:
    manifest = cache_images(data, teacher).manifest
    assert manifest is not None
    assert manifest.spec.recipe == {
        "teacher": teacher.recipe(),
        "preprocessing": teacher.preprocess_recipe(),
        "normalisation": "unit",
        "batch": 256,
        "filled": "zeros",
        "source": "whole photo",
    }
    assert manifest.spec.recipe["preprocessing"]["interpolation"] == "bicubic"


def test_another_teacher_is_another_column(data: Path, teacher: Teacher, tmp_path: Path) -> None:
    cache_images(data, teacher)
    other = write_teacher(tmp_path / "other", seed=1)
    with pytest.raises(UserError, match="holds a column of another recipe"):
        cache_images(data, other, device="cpu")


def test_numbers_out_of_range_are_refused(data: Path, teacher: Teacher) -> None:
    with pytest.raises(UserError, match="--workers is -1"):
        cache_images(data, teacher, workers=-1)
    with pytest.raises(UserError, match="--batch is 0; give at least 1"):
        cache_images(data, teacher, batch=0)
    for part in ((2, 2), (-1, 2), (0, 0)):
        with pytest.raises(UserError, match=r"--part is .*; give I/N with I from 0 to N - 1"):
            cache_images(data, teacher, part=part)
    assert check_numbers(1, None, (0, 1)) >= 1
    assert check_numbers(1, 0, (0, 1)) == 0
    assert not (data / "images").exists()


def test_a_data_set_without_an_index_is_refused(tmp_path: Path, teacher: Teacher) -> None:
    with pytest.raises(UserError, match="holds no index"):
        cache_images(tmp_path, teacher)


def test_a_column_of_an_index_that_is_not_kept_is_refused(data: Path, teacher: Teacher) -> None:
    cache_images(data, teacher)
    shutil.rmtree(data / "index")  # else the column would grow
    held = json.loads((data.parent / "coco.json").read_text())
    held["annotations"].pop()
    (data.parent / "coco.json").write_text(json.dumps(held))
    build_index(data.parent / "coco.json", data.parent / "photos", data, "all-base")
    with pytest.raises(UserError, match="holds a column of another index"):
        cache_images(data, teacher)
