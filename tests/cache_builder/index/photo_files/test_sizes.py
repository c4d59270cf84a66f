"""Recorded sizes against files: EXIF orientation, resized photos, photos of another size."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.index import IndexReport, build_index, copy_index, open_index, verify_index
from cckt.cache_builder.photos import BadPhoto, load_row
from tests.cache_builder.index.coco_files import Coco
from tests.cache_builder.index.photo_files.samples import export, save_export, save_photo


def build(folder: Path, coco: Coco, **options: Any) -> IndexReport:
    return build_index(save_export(folder, coco), folder, folder / "out", "all-base", **options)


def test_photos_without_an_orientation_record_nothing(tmp_path: Path) -> None:
    save_photo(tmp_path / "a.jpg", (60, 40))
    report = build(tmp_path, export(("a.jpg", (60, 40), [[1, 2, 3, 4]])))
    assert "exif" not in open_index(tmp_path / "out").card
    assert not [line for line in report.lines() if "EXIF" in line]


def test_the_recorded_size_decides_and_the_report_has_the_count(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        save_photo(tmp_path / name, (60, 40), 6)
    report = build(tmp_path, export(("a.jpg", (40, 60), [[5, 30, 20, 25]])))
    assert "1 photo has an EXIF orientation: their boxes are of the photo as turned (--exif apply)" in (
        report.lines()
    )
    index = open_index(tmp_path / "out")
    assert index.card["exif"] == {"choice": "auto", "reading": "ignore", "applied": 1, "ignored": 0}
    assert load_row(index, 0).size == (40, 60)
    both = export(("a.jpg", (40, 60), [[5, 30, 20, 25]]), ("b.jpg", (60, 40), [[30, 5, 25, 20]]))
    report = build(tmp_path, both)
    assert (report.sizes.applied, report.sizes.ignored) == (1, 1)
    index = open_index(tmp_path / "out")
    assert [load_row(index, row).size for row in range(2)] == [(40, 60), (60, 40)]


def test_boxes_that_contradict_the_recorded_size_are_refused_and_an_option_decides(tmp_path: Path) -> None:
    save_photo(tmp_path / "a.jpg", (60, 40), 6)
    stored = export(("a.jpg", (60, 40), [[5, 30, 20, 25]]))
    message = r"the boxes of 1 photo with .* \(the first is a\.jpg, recorded as 60 x 40\).*--exif apply"
    with pytest.raises(UserError, match=message):
        build(tmp_path, stored)
    report = build(tmp_path, stored, exif="apply")
    assert "1 recorded size replaced by those of the chosen --exif" in report.lines()
    index = open_index(tmp_path / "out")
    assert (index.widths.tolist(), index.heights.tolist()) == ([40], [60])
    assert load_row(index, 0).size == (40, 60)
    assert report.clipped == 0

    turned = export(("a.jpg", (40, 60), [[30, 5, 25, 20]]))
    with pytest.raises(UserError, match="--exif ignore if on the stored pixels"):
        build(tmp_path, turned)
    report = build(tmp_path, turned, exif="ignore")
    assert (report.clipped, report.sizes.replaced, report.sizes.ignored) == (0, 1, 1)
    assert load_row(open_index(tmp_path / "out"), 0).size == (60, 40)


@pytest.mark.parametrize(("size", "orientation"), [((60, 40), 3), ((60, 40), 2), ((50, 50), 6)])
def test_a_photo_that_fits_both_readings_is_refused_and_an_option_decides(
    tmp_path: Path, size: tuple[int, int], orientation: int
) -> None:
    save_photo(tmp_path / "a.jpg", size, orientation)
    coco = export(("a.jpg", size, [[5, 5, 20, 25]]))
    with pytest.raises(
        UserError, match=r"turns 1 photo without changing its size .*fit both readings; add --exif apply if"
    ):
        build(tmp_path, coco)
    ignored = build(tmp_path, coco, exif="ignore")
    stored = np.asarray(load_row(open_index(tmp_path / "out"), 0))
    assert stored[2, 2, 0] > 200, "the left half is red"
    applied = build(tmp_path, coco, exif="apply")
    index = open_index(tmp_path / "out")
    shown = np.asarray(load_row(index, 0))
    assert shown[2, 2, 2] > 200 or shown[-2, 2, 2] > 200, "blue comes left or below"
    assert ignored.digest != applied.digest, "columns of one reading do not fit the other"
    assert verify_index(index)
    copy_index(index, tmp_path / "copy")
    assert open_index(tmp_path / "copy").exif == "apply"


def test_a_photo_that_fits_both_readings_follows_the_other_photos(tmp_path: Path) -> None:
    save_photo(tmp_path / "a.jpg", (60, 40), 6)
    save_photo(tmp_path / "b.jpg", (60, 40), 3)
    second = ("b.jpg", (60, 40), [[1, 1, 9, 9]])
    report = build(tmp_path, export(("a.jpg", (40, 60), [[5, 30, 20, 25]]), second))
    assert (report.sizes.exif, report.sizes.applied) == ("apply", 2)
    report = build(tmp_path, export(("a.jpg", (60, 40), [[30, 5, 25, 20]]), second))
    assert (report.sizes.exif, report.sizes.ignored) == ("ignore", 2)
    save_photo(tmp_path / "c.jpg", (60, 40), 8)
    mixed = [("a.jpg", (40, 60), []), second, ("c.jpg", (60, 40), [])]
    with pytest.raises(UserError, match="1 other photo is annotated as turned and 1 as stored"):
        build(tmp_path, export(*mixed))


def test_a_photo_without_boxes_is_not_refused(tmp_path: Path) -> None:
    save_photo(tmp_path / "a.jpg", (60, 40), 3)
    assert build(tmp_path, export(("a.jpg", (60, 40), []))).sizes.ignored == 1


def test_resized_photos_are_refused_and_rescale_scales_their_boxes(tmp_path: Path) -> None:
    save_photo(tmp_path / "a.jpg", (50, 33))
    save_photo(tmp_path / "b.jpg", (60, 40))
    coco = export(("a.jpg", (100, 67), [[10, 20, 30, 40]]), ("b.jpg", (60, 40), [[1, 2, 3, 4]]))
    coco["annotations"][0]["area"] = 800
    message = r"1 of 2 photos were resized .* \(the first is a\.jpg, 50 x 33, recorded as 100 x 67\)"
    with pytest.raises(UserError, match=message):
        build(tmp_path, coco)
    report = build(tmp_path, coco, rescale=True)
    index = open_index(tmp_path / "out")
    assert index.box_xyxy[0].tolist() == pytest.approx([5, 20 * 33 / 67, 20, 60 * 33 / 67])
    assert index.areas.tolist() == pytest.approx([400 * 33 / 67, 12])
    assert index.box_xyxy[1].tolist() == [1, 2, 4, 6]
    assert load_row(index, 0).size == (50, 33)
    assert "1 photo was resized: their boxes are scaled to the file" in report.lines()


def test_photos_of_another_aspect_ratio_are_counted(tmp_path: Path) -> None:
    save_photo(tmp_path / "a.jpg", (50, 50))
    save_photo(tmp_path / "b.jpg", (60, 40))
    coco = export(("a.jpg", (100, 67), [[1, 2, 3, 4]]), ("b.jpg", (60, 40), []))
    for rescale in (False, True):
        report = build(tmp_path, coco, rescale=rescale)
        assert (report.sizes.other_size, report.sizes.first_other) == (1, "a.jpg")
        assert any("1 photo has another size than recorded" in line for line in report.lines())
    with pytest.raises(BadPhoto, match="is 50 x 50 where the annotations say 100 x 67"):
        load_row(open_index(tmp_path / "out"), 0)


def test_options_without_photos_or_with_unknown_values_are_refused(tmp_path: Path) -> None:
    path = save_export(tmp_path, export(("a.jpg", (60, 40), [])))
    with pytest.raises(UserError, match="--exif is 'turn': expected one of auto, apply, ignore"):
        build_index(path, tmp_path, tmp_path / "out", "all-base", exif="turn")
    with pytest.raises(UserError, match="--exif and --rescale compare annotations with photos; add --images"):
        build_index(path, None, tmp_path / "out", "all-base", rescale=True)


@settings(deadline=None, max_examples=25)
@given(
    width=st.integers(20, 40),
    height=st.integers(20, 40),
    orientation=st.integers(1, 8),
    as_shown=st.booleans(),
    choice=st.sampled_from(["auto", "apply", "ignore"]),
)
def test_pixels_always_have_the_size_of_the_index(
    width: int, height: int, orientation: int, as_shown: bool, choice: str
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_photo(folder / "a.jpg", (width, height), orientation)
        swapped = as_shown and orientation >= 5
        size = (height, width) if swapped else (width, height)
        coco = export(("a.jpg", size, [[1, 1, 9, 9]]))
        if choice == "auto" and (orientation in (2, 3, 4) or (orientation > 4 and width == height)):
            with pytest.raises(UserError, match="--exif apply"):
                build(folder, coco, exif=choice)
            return
        build(folder, coco, exif=choice)
        index = open_index(folder / "out")
        assert load_row(index, 0).size == (index.widths[0], index.heights[0])
        if choice == "auto":
            assert (index.widths[0], index.heights[0]) == size
