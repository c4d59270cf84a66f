"""Columns of photos that cannot be read: refused where none can, a warning where many cannot."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.columns.all_at_once import cache_all, cache_photos
from cckt.cache_builder.columns.clip_priors import cache_clip_priors
from cckt.cache_builder.columns.crops import cache_crops
from cckt.cache_builder.columns.images import cache_images
from cckt.cache_builder.columns.mllm_priors import cache_mllm_priors
from cckt.cache_builder.columns.recompute import verify_data
from cckt.cache_builder.columns.text import cache_text
from cckt.cache_builder.index import open_index
from cckt.cache_builder.mllm import Mllm
from cckt.cache_builder.photos import load_or_reason
from cckt.cache_builder.store import list_columns, open_column
from cckt.cache_builder.teacher.clip import Teacher
from tests.cache_builder.mllm.mllm_models import outspoken
from tests.cache_builder.samples import write_photos


@pytest.fixture(scope="module")
def mllm() -> Mllm:
    return Mllm.of("outspoken", *outspoken(), device="cpu")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "set")


def move_away(data: Path) -> None:
    """Leave the folder of the photos behind, with another file in it."""
    photos = data.parent / "photos"
    shutil.move(photos, data.parent / "moved")
    photos.mkdir()
    (photos / "README").write_text("nothing is mounted here")


def empty(data: Path, *numbers: int) -> None:
    for number in numbers:
        (data.parent / "photos" / f"{number:03d}.png").write_bytes(b"")


MAKERS: dict[str, Callable[[Path, Teacher], object]] = {
    "crops": lambda data, teacher: cache_crops(data, teacher),
    "crops, flipped": lambda data, teacher: cache_photos(data, teacher, kinds=("crops",), flipped=True),
    "images": lambda data, teacher: cache_images(data, teacher),
    "images, fast": lambda data, teacher: cache_images(data, teacher, fast=True),
    "all": lambda data, teacher: cache_photos(data, teacher),
}


@pytest.mark.parametrize("maker", MAKERS)
def test_no_photo_can_be_read(data: Path, teacher: Teacher, maker: str) -> None:
    move_away(data)
    with pytest.raises(UserError, match=r"none of the \d photos of .* can be read .*does not exist"):
        MAKERS[maker](data, teacher)
    assert list_columns(data) == [], "no column of invalid rows is left"
    photos = data.parent / "photos"
    shutil.rmtree(photos)
    shutil.move(data.parent / "moved", photos)
    MAKERS[maker](data, teacher)
    assert all(open_column(data, name).valid_all().any() for name in list_columns(data))


def test_all_refuses_after_the_text(data: Path, teacher: Teacher) -> None:
    empty(data, *range(6))
    with pytest.raises(UserError, match=r"none of the 6 photos .* is empty \(0 bytes\)"):
        cache_all(data, teacher)
    assert list_columns(data) == ["text"]


def test_no_photo_can_be_read_for_mllm_priors(data: Path, mllm: Mllm) -> None:
    empty(data, *range(6))
    with pytest.raises(UserError, match=r"none of the 6 photos .* is empty \(0 bytes\)"):
        cache_mllm_priors(data, mllm)
    assert list_columns(data) == []


def test_crops_need_a_readable_photo_with_boxes(data: Path, teacher: Teacher) -> None:
    empty(data, 0, 1, 3, 4, 5)
    assert not isinstance(load_or_reason(open_index(data), 2), str), "the photo without boxes is in order"
    with pytest.raises(UserError, match=r"none of the 5 photos"):
        cache_crops(data, teacher)
    assert cache_images(data, teacher).invalid == 5


def test_many_unreadable_photos_are_warned_of_and_few_are_not(
    data: Path, teacher: Teacher, mllm: Mllm
) -> None:
    cache_text(data, teacher, templates="single")
    empty(data, 0, 3)
    warning = "warning: 2 of {} photos ({}) cannot be read, so their rows have no value"
    assert cache_crops(data, teacher).notes[0] == warning.format(5, "40%")
    assert cache_images(data, teacher).notes[0] == warning.format(6, "33%")
    assert cache_clip_priors(data).notes[0] == warning.format(6, "33%")
    assert cache_mllm_priors(data, mllm).notes[0] == warning.format(6, "33%")
    some = write_photos(data.parent / "more", photos=10)
    empty(some, 0)
    assert cache_images(some, teacher).notes == ["000.png is empty (0 bytes)"]


def test_priors_of_a_column_without_a_valid_row(
    data: Path, teacher: Teacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache_text(data, teacher, templates="single")
    empty(data, *range(6))
    with monkeypatch.context() as patch:  # as an older cckt made it
        patch.setattr("cckt.cache_builder.columns.images.check_photos", lambda index: None)
        cache_images(data, teacher)
    with pytest.raises(UserError, match="column images has no valid row among 6: expected an embedding"):
        cache_clip_priors(data)


def test_verification_without_the_photos_finds_no_damage(data: Path, teacher: Teacher) -> None:
    cache_images(data, teacher)
    photos = data.parent / "photos"
    move_away(data)
    (report,) = verify_data(data, ["images"], teacher=teacher.name, device="cpu")
    assert [problem.kind for problem in report.problems] == ["photo"]
    assert "6 of 6 sampled rows cannot be made again (the first is row 0)" in report.problems[0].message
    assert report.step.startswith("make the photos readable")
    assert report.agreement is None
    shutil.rmtree(photos)
    (data.parent / "moved").rename(photos)
    (photos / "002.png").unlink()
    (report,) = verify_data(data, ["images"], teacher=teacher.name, device="cpu")
    assert "1 of 6 sampled rows cannot be made again (the first is row 2)" in report.problems[0].message
    assert report.agreement is not None
    assert report.agreement.minimum > 0.999


@pytest.mark.parametrize(("option", "value"), [("tau", 0), ("tau", float("nan")), ("jitter", -1)])
def test_a_number_for_the_end_is_checked_at_the_beginning(
    data: Path, teacher: Teacher, option: str, value: float
) -> None:
    with pytest.raises(UserError, match=f"--{option} is"):
        cache_all(data, teacher, **{option: value})
    assert list_columns(data) == []
