"""`--fast`: nearly the same pixels, another recipe, and how near they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.columns.all_at_once import cache_photos
from cckt.cache_builder.columns.crops import CropReader, cache_crops
from cckt.cache_builder.columns.fast_pixels import as_pixels, fast_pixels, stacked
from cckt.cache_builder.columns.images import ImageReader, cache_images
from cckt.cache_builder.columns.recompute import verify_data
from cckt.cache_builder.columns.report import ENOUGH
from cckt.cache_builder.columns.views import usable_boxes
from cckt.cache_builder.index import open_index
from cckt.cache_builder.photos import load_photo
from cckt.cache_builder.store import open_column
from cckt.cache_builder.teacher.clip import Teacher, load_teacher
from cckt.cache_builder.teacher.preprocess import GAP, Preprocess
from tests.cache_builder.samples import write_photos, write_teacher


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "set")


def preprocess(folder: Path, **changes: Any) -> Preprocess:
    return load_teacher(write_teacher(folder, preprocess=changes), device="cpu").preprocess


def smooth(width: int, height: int, seed: int = 0) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 255, (height // 9 + 2, width // 9 + 2, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("mode", ["shortest", "squash", "longest"])
@pytest.mark.parametrize("size", [(40, 40), (90, 42), (33, 121), (20, 24), (32, 32)])
def test_fast_pixels_are_nearly_the_exact_ones(tmp_path: Path, mode: str, size: tuple[int, int]) -> None:
    own, photo = preprocess(tmp_path, resize_mode=mode, fill_color=9), smooth(*size)
    exact = own.pixels(photo).astype(int)
    fast = fast_pixels(own, as_pixels(photo), on_device=False)
    assert fast.shape == exact.shape == (3, 32, 32)
    one_pixel = max(np.abs(np.diff(exact, axis=axis)).mean() for axis in (1, 2))
    assert np.abs(fast - exact).mean() < 0.7 * one_pixel, "what is cut first may lie half a pixel off"
    if mode == "squash":
        assert np.abs(fast - exact).max() <= 2
    if mode == "longest":
        assert ((fast == 9).all(0) == (exact == 9).all(0)).mean() > 0.95


def test_resizing_on_the_device_is_the_same(tmp_path: Path) -> None:
    own = preprocess(tmp_path, resize_mode="shortest")
    photos = [as_pixels(smooth(width, 50, width)) for width in (30, 60, 32)]
    here = np.stack([fast_pixels(own, photo, on_device=False) for photo in photos])
    sent = [fast_pixels(own, photo, on_device=True) for photo in photos]
    assert {part.shape for part in sent} != {own.shape}
    np.testing.assert_array_equal(stacked(own, sent, torch.device("cpu")).numpy(), here)
    mirrored = np.stack([fast_pixels(own, photo, on_device=False, flipped=True) for photo in photos])
    assert np.abs(mirrored[..., ::-1].astype(int) - here).max() <= 1


def test_a_photo_is_reduced_only_as_far_as_its_crops_allow(tmp_path: Path) -> None:
    own = preprocess(tmp_path, resize_mode="shortest")
    assert own.reduction(np.zeros((0, 2))) == 1
    for n in (2, 4, 8):
        side = GAP * n * 32
        assert own.reduction(np.array([[side, 3 * side]])) == n
        assert own.reduction(np.array([[side - 1, 3 * side]])) == {2: 1, 4: 2, 8: 4}[n]
    assert own.reduction(np.array([[1e4, 1e4], [20, 20]])) == 1, "the smallest crop decides"
    whole = preprocess(tmp_path / "whole", resize_mode="longest")
    assert whole.reduction(np.array([[GAP * 2 * 32, 10]])) == 2


def test_a_reduced_jpeg_shows_the_whole_photo(tmp_path: Path) -> None:
    photo = smooth(208, 152)
    photo.save(tmp_path / "a.jpg", quality=95, subsampling=0)
    for n in (1, 2, 4, 8):
        found = load_photo(tmp_path / "a.jpg", (208, 152), reduction=n)
        assert found.size == (208 // n, 152 // n)
        near = photo.resize(found.size, Image.Resampling.BOX)
        assert np.abs(np.asarray(found).astype(int) - np.asarray(near)).mean() < 6
    photo.crop((0, 0, 203, 151)).save(tmp_path / "c.jpg")
    assert load_photo(tmp_path / "c.jpg", (203, 151), reduction=4).size == (51, 38), "rounded up"
    photo.save(tmp_path / "a.png")
    assert load_photo(tmp_path / "a.png", (208, 152), reduction=4).size == (208, 152)
    Image.new("RGB", (3, 3)).save(tmp_path / "b.jpg")
    assert load_photo(tmp_path / "b.jpg", reduction=8).size == (2, 2), "as far as it goes"


def test_a_reduced_photo_has_the_orientation_of_the_whole_one(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    smooth(200, 120).save(tmp_path / "a.jpg", exif=exif)
    assert load_photo(tmp_path / "a.jpg", (120, 200), reduction=2).size == (60, 100)
    assert load_photo(tmp_path / "a.jpg", (200, 120), reduction=2).size == (100, 60)
    with pytest.raises(Exception, match="is 200 x 120 where the annotations say 100 x 60"):
        load_photo(tmp_path / "a.jpg", (100, 60), reduction=2)


def large_jpegs(data: Path) -> None:
    """Twelve times the size of the photos, as JPEG under the same names, boxes along."""
    import json

    from cckt.cache_builder.index import build_index

    held = json.loads((data.parent / "coco.json").read_text())
    for image in held["images"]:
        path = data.parent / "photos" / image["file_name"]
        size = (image["width"] * 12, image["height"] * 12)
        Image.open(path).convert("RGB").resize(size, Image.Resampling.BICUBIC).save(path, "JPEG", quality=95)
        image["width"], image["height"] = size
    for box in held["annotations"]:
        box["bbox"] = [12 * side for side in box["bbox"]]
    (data.parent / "coco.json").write_text(json.dumps(held))
    build_index(data.parent / "coco.json", data.parent / "photos", data, "all-base")


def test_fast_columns_report_their_agreement_and_are_verified(data: Path, teacher: Teacher) -> None:
    large_jpegs(data)
    index = open_index(data)
    assert CropReader(index, teacher.preprocess, fast=True).reduction(0) > 1
    assert ImageReader(index, teacher.preprocess, fast=True).reduction(0) > 1
    reports = cache_photos(data, teacher, fast=True, flipped=True, batch=4)
    assert [report.name for report in reports] == ["crops", "crops-flipped", "images"]
    for report in reports:
        assert report.agreement is not None
        assert report.agreement.median >= ENOUGH
        assert f"fast against exact, {report.agreement}" in report.lines()
        assert report.to_json()["agreement"]["median"] == report.agreement.median
    assert all(report.ok for report in verify_data(data, sample=8))
    with pytest.raises(UserError, match="holds a column of another recipe"):
        cache_crops(data, teacher, batch=4)
    fast = {name: open_column(data, name).all() for name in ("crops", "images")}
    assert cache_crops(data, teacher, fast=True, batch=4).made_chunks == 0, (
        "the same as with its own function"
    )
    assert cache_images(data, teacher, fast=True, batch=4, overwrite=True).made_chunks == 1
    np.testing.assert_array_equal(open_column(data, "images").all(), fast["images"])
    exact = cache_crops(data, teacher, batch=4, overwrite=True)
    assert exact.agreement is None
    near = np.einsum("ij,ij->i", open_column(data, "crops").all().astype(float), fast["crops"].astype(float))
    assert np.median(near[usable_boxes(index)]) >= ENOUGH
    assert (open_column(data, "crops").all() != fast["crops"]).any()


def test_a_fast_column_far_from_the_exact_one_gets_a_warning(
    data: Path, teacher: Teacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Preprocess, "resized", lambda self, part: torch.zeros(3, 32, 32, dtype=torch.uint8))
    report = cache_images(data, teacher, fast=True)
    assert report.agreement is not None
    assert report.agreement.median < ENOUGH
    assert "far from the exact one" in report.notes[-1]
