"""The column `crops`: rectangles by the rule, embeddings by the teacher, flags where there is none."""

from __future__ import annotations

import math
import pickle
import shutil
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional as F

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.columns import crops as room
from cckt.cache_builder.columns.crops import (
    CropReader,
    cache_crops,
    crop_rectangles,
    photo_spans,
    usable_boxes,
)
from cckt.cache_builder.index import build_index, open_index
from cckt.cache_builder.runner import ExactPart
from cckt.cache_builder.store import open_column
from cckt.cache_builder.teacher.clip import Teacher
from tests.cache_builder.samples import write_photos
from tests.places import SHARED

SHARED = SHARED / "coco_photos"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "set")


@st.composite
def boxes_in_a_photo(draw: st.DrawFn) -> tuple[np.ndarray, tuple[int, int]]:
    width, height = draw(st.integers(1, 500)), draw(st.integers(1, 500))
    boxes = []
    for _ in range(draw(st.integers(0, 5))):
        x = sorted(draw(st.floats(0, width)) for _ in range(2))
        y = sorted(draw(st.floats(0, height)) for _ in range(2))
        if x[1] - x[0] > 1e-3 and y[1] - y[0] > 1e-3:
            boxes.append([x[0], y[0], x[1], y[1]])
    return np.array(boxes, np.float64).reshape(-1, 4), (width, height)


def test_no_boxes_give_no_rectangles() -> None:
    for rule in ("box", "square"):
        assert crop_rectangles(np.zeros((0, 4)), (10, 10), rule).shape == (0, 4)
    assert photo_spans(np.zeros(0, np.int32), 0) == []


@settings(deadline=None, max_examples=60)
@given(boxes_in_a_photo())
def test_box_rectangles_hold_exactly_the_pixels_that_the_box_touches(
    case: tuple[np.ndarray, tuple[int, int]],
) -> None:
    boxes, size = case
    for (x0, y0, x1, y1), rectangle in zip(boxes, crop_rectangles(boxes, size), strict=True):
        assert rectangle.tolist() == [math.floor(x0), math.floor(y0), math.ceil(x1), math.ceil(y1)]


def test_a_box_is_clipped_to_its_photo() -> None:
    boxes = np.array([[-5.0, 2.5, 30.0, 8.0]])
    assert crop_rectangles(boxes, (20, 10)).tolist() == [[0, 2, 20, 8]]


@settings(deadline=None, max_examples=60)
@given(boxes_in_a_photo())
def test_squares_are_inside_the_photo_and_have_their_size(
    case: tuple[np.ndarray, tuple[int, int]],
) -> None:
    boxes, (width, height) = case
    for (x0, y0, x1, y1), (left, top, right, bottom) in zip(
        boxes, crop_rectangles(boxes, (width, height), "square"), strict=True
    ):
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        side = max(1, round(math.sqrt(8 * (x1 - x0) * (y1 - y0))))
        assert right - left == min(side, width)
        assert bottom - top == min(side, height)
        # Moved no further than the border asks for.
        if left > 0 and right < width:
            assert abs((left + right) / 2 - (x0 + x1) / 2) <= 0.75
        if top > 0 and bottom < height:
            assert abs((top + bottom) / 2 - (y0 + y1) / 2) <= 0.75


def test_a_square_equals_a_calculation_by_hand() -> None:
    # Area 32 x 16, side sqrt(8 * 512) = 64; centre (26, 28); moved right by 6 and down by 4.
    boxes = np.array([[10.0, 20.0, 42.0, 36.0]])
    assert crop_rectangles(boxes, (200, 100), "square").tolist() == [[0, 0, 64, 64]]
    assert crop_rectangles(boxes, (50, 100), "square").tolist() == [[0, 0, 50, 64]]


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 4), max_size=12), st.integers(0, 9))
def test_spans_cover_all_rows_with_one_photo_each(images: list[int], lo: int) -> None:
    images.sort()
    spans = photo_spans(np.array(images, np.int32), lo)
    assert [row for start, stop in spans for row in range(start, stop)] == list(range(lo, lo + len(images)))
    seen = [{images[row - lo] for row in range(start, stop)} for start, stop in spans]
    assert all(len(photos) == 1 for photos in seen)
    assert len(set().union(*seen)) == len(spans)


def test_crowds_and_small_boxes_have_no_embedding(data: Path, teacher: Teacher) -> None:
    index = open_index(data)
    sides = index.box_xyxy[:, 2:] - index.box_xyxy[:, :2]
    expected = [not crowd and w >= 16 and h >= 16 for crowd, (w, h) in zip(index.iscrowd, sides, strict=True)]
    np.testing.assert_array_equal(usable_boxes(index), expected)
    assert expected.count(False) == 2
    report = cache_crops(data, teacher)
    column = open_column(data, "crops")
    np.testing.assert_array_equal(column.valid_all(), expected)
    np.testing.assert_array_equal(column.all()[~np.array(expected)], 0)
    assert report.notes == ["1 row: the box is a crowd", "1 row: the box is under 16 px on a side"]
    assert report.invalid == 2


@pytest.mark.parametrize("crop", ["box", "square"])
def test_rows_equal_open_clip_called_directly(data: Path, teacher: Teacher, crop: str) -> None:
    cache_crops(data, teacher, crop=crop, batch=4, workers=2, chunk_rows=7)
    index = open_index(data)
    column = open_column(data, "crops", index_digest=index.digest)
    assert column.dtype == np.float16
    model, _, transform = open_clip.create_model_and_transforms(teacher.name)
    usable = usable_boxes(index)
    for row in range(len(column)):
        if not usable[row]:
            continue
        photo = Image.open(index.photo_path(index.box_images[row])).convert("RGB")
        (rectangle,) = crop_rectangles(index.box_xyxy[row : row + 1], photo.size, crop).tolist()
        with torch.no_grad():
            features = model.eval().encode_image(transform(photo.crop(rectangle))[None])
        ours = column.take([row])[0].astype(np.float64)
        assert abs(np.linalg.norm(ours) - 1) < 2e-3
        direct = F.normalize(features, dim=-1)[0].numpy()
        assert ours @ direct / np.linalg.norm(ours) >= 0.9999


def test_each_photo_is_decoded_once_and_only_if_needed(
    data: Path, teacher: Teacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[int] = []
    load = room.load_or_reason
    monkeypatch.setattr(
        room, "load_or_reason", lambda index, image, **kw: opened.append(image) or load(index, image, **kw)
    )
    shapes: list[int] = []
    encode = teacher.launch_images
    monkeypatch.setattr(
        teacher, "launch_images", lambda batch, shape: shapes.append(len(batch)) or encode(batch, shape)
    )
    cache_crops(data, teacher, batch=8, workers=0)
    assert opened == [0, 1, 3, 4, 5], "photo 2 has no box"
    assert shapes == [8, 8, 8, 1], "crops of several photos share a batch"


def test_workers_and_interruption_change_no_byte(data: Path, teacher: Teacher) -> None:
    cache_crops(data, teacher, batch=4, workers=0, chunk_rows=5)
    single = {path: path.read_bytes() for path in sorted((data / "crops").rglob("*")) if path.is_file()}
    shutil.rmtree(data / "crops")
    cache_crops(data, teacher, batch=4, workers=3, chunk_rows=5, part=ExactPart((1, 2)))
    report = cache_crops(data, teacher, batch=4, workers=2, chunk_rows=5)
    assert report.skipped_chunks > 0
    assert {
        path: path.read_bytes() for path in sorted((data / "crops").rglob("*")) if path.is_file()
    } == single


def test_a_reader_is_picklable(data: Path, teacher: Teacher) -> None:
    reader = CropReader(open_index(data), teacher.preprocess, "square", True)
    sent = pickle.loads(pickle.dumps(reader))  # noqa: S301
    (lo, hi), *_ = photo_spans(sent.index.box_images, 0)
    for ours, theirs in zip(reader(lo, hi), sent(lo, hi), strict=True):
        assert (ours.row, ours.reason) == (theirs.row, theirs.reason)
        np.testing.assert_array_equal(ours.data, theirs.data)


def test_a_bad_photo_leaves_invalid_rows_and_one_note(data: Path, teacher: Teacher) -> None:
    (data.parent / "photos" / "003.png").write_text("not a photo")
    report = cache_crops(data, teacher)
    index = open_index(data)
    rows = index.boxes_of(3)
    expected = usable_boxes(index)
    expected[rows] = False
    np.testing.assert_array_equal(open_column(data, "crops").valid_all(), expected)
    assert report.notes[0].startswith("warning: 1 of 5 photos (20%) cannot be read")
    assert report.notes[3:] == ["003.png is not an image in a supported format"]
    shutil.rmtree(data / "crops")
    with pytest.raises(UserError, match=r"003\.png: is not an image"):
        cache_crops(data, teacher, strict=True)


def test_an_index_without_boxes_gives_an_empty_column(tmp_path: Path, teacher: Teacher) -> None:
    data = write_photos(tmp_path / "set", photos=3, boxes=0)
    (tmp_path / "set" / "coco.json").write_text(
        (tmp_path / "set" / "coco.json")
        .read_text()
        .replace('"annotations": [', '"annotations": [], "was": [')
    )
    build_index(tmp_path / "set" / "coco.json", tmp_path / "set" / "photos", data, "all-base")
    report = cache_crops(data, teacher)
    assert (report.rows, report.made_chunks, report.notes) == (0, 0, [])
    assert len(open_column(data, "crops")) == 0


def test_an_unknown_crop_rule_is_refused(data: Path, teacher: Teacher) -> None:
    with pytest.raises(UserError, match="--crop round is not known; choose one of box, square"):
        cache_crops(data, teacher, crop="round")
    manifest = cache_crops(data, teacher, crop="square").manifest
    assert manifest is not None
    assert manifest.spec.recipe["crop"]["rule"] == "square"
    with pytest.raises(UserError, match="holds a column of another recipe"):
        cache_crops(data, teacher, crop="box")


@pytest.mark.slow
def test_real_photos_with_a_full_size_teacher(tmp_path: Path) -> None:
    if not SHARED.is_dir():
        pytest.skip("../shared/data is not here")
    annotations = SHARED / "annotations" / "instances_val2017.json"
    build_index(annotations, SHARED / "val2017", tmp_path, "coco-48-17")
    report = cache_crops(tmp_path, "ViT-B-32/random:0", device="cpu")
    index = open_index(tmp_path)
    assert report.rows == 604
    assert report.invalid == int((~usable_boxes(index)).sum())
    torch.manual_seed(0)
    model, _, transform = open_clip.create_model_and_transforms("ViT-B-32")
    column = open_column(tmp_path, "crops")
    for row in np.flatnonzero(usable_boxes(index))[::40].tolist():
        photo = Image.open(index.photo_path(index.box_images[row])).convert("RGB")
        (rectangle,) = crop_rectangles(index.box_xyxy[row : row + 1], photo.size).tolist()
        with torch.no_grad():
            features = model.eval().encode_image(transform(photo.crop(rectangle))[None])
        ours = column.take([row])[0].astype(np.float64)
        assert ours @ F.normalize(features, dim=-1)[0].numpy() / np.linalg.norm(ours) >= 0.9999
