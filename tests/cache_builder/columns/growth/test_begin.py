"""Grow a data set: rows of the same photo, box and recipe are copied; the bytes are as from nothing."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.columns.all_at_once import cache_all, cache_photos
from cckt.cache_builder.columns.crops import cache_crops
from cckt.cache_builder.columns.images import cache_images
from cckt.cache_builder.index import build_index, open_index
from cckt.cache_builder.store import open_column
from cckt.cache_builder.teacher.clip import Teacher
from tests.cache_builder.columns.growth.fake_teacher import FakeTeacher
from tests.cache_builder.columns.growth.growing import (
    FAST,
    Edited,
    changed_since,
    columns_of,
    from_nothing,
    one_box_less,
    one_box_more,
    some_photos,
)


def test_an_unchanged_data_set_makes_nothing(tmp_path: Path, teacher: Teacher) -> None:
    edited = some_photos(tmp_path)
    data = edited.index(tmp_path / "data")
    cache_crops(data, teacher, **FAST)
    before = columns_of(data)
    edited.index(data)
    report = cache_crops(data, teacher, **FAST)
    assert (report.made_chunks, report.copied_rows) == (0, 0)
    assert columns_of(data) == before


def test_real_encoder_all_columns_grow_to_the_bytes_of_a_build_from_nothing(
    tmp_path: Path, teacher: Teacher
) -> None:
    def make(data: Path) -> Any:
        return cache_all(data, teacher, flipped=True, jitter=1, **FAST)

    edited = some_photos(tmp_path)
    data = edited.index(tmp_path / "data")
    make(data)
    edited.add_photo("zzz.png", 99)
    edited.add_box("zzz.png", (3.0, 3.0, 20.0, 20.0))
    edited.remove_photo("004.png")
    edited.rename_photo("005.png", "a-new-name.png")
    first = min(edited.boxes)
    edited.boxes[first] = (edited.boxes[first][0], (1.0, 2.0, 18.0, 19.0), 0)  # moved
    edited.index(data)
    reports = {report.name: report for report in make(data)}
    expected = from_nothing(edited, tmp_path / "fresh", make)
    assert columns_of(data) == expected
    usable = 11 * 3 + 1
    for name in ("crops", "crops-flipped", "crops-jitter-1"):
        assert (reports[name].copied_rows, reports[name].made_rows) == (usable - 2, 2), name
    assert (reports["images"].copied_rows, reports["images"].made_rows) == (11, 1)
    assert "32 rows copied from the older column, 2 made" in reports["crops"].lines()
    assert sorted(os.listdir(data / "index")) == sorted(
        [
            "index.json",
            open_index(data).card["tables"],
            "photos-" + open_index(data).card["tables"][7:] + ".npy",
        ]
    ), "the old index is removed when no column belongs to it"


edits = st.lists(
    st.tuples(
        st.sampled_from(
            ["add photo", "remove photo", "rename", "add box", "remove box", "move box", "crowd"]
        ),
        st.integers(0, 10**6),
    ),
    min_size=1,
    max_size=6,
)


def apply(edited: Edited, edit: str, number: int) -> None:
    names, keys = sorted(edited.photos), sorted(edited.boxes)
    name = names[number % len(names)] if names else ""
    key = keys[number % len(keys)] if keys else 0
    box = (number % 13 / 2, number % 11 / 3, 17.0 + number % 5, 16.0 + number % 7)
    if edit == "add photo":
        new = f"{'ab'[number % 2]}{number}-{edited.next_id}.png"  # sorts before or after the others
        edited.add_photo(new, number % 1000)
        edited.add_box(new, box)
    elif edit == "remove photo" and len(names) > 1:
        edited.remove_photo(name)
    elif edit == "rename" and names:
        edited.rename_photo(name, f"r{edited.next_id}-{number}.png")
        edited.next_id += 1
    elif edit == "add box" and names:
        edited.add_box(name, box)
    elif edit == "remove box" and keys:
        del edited.boxes[key]
    elif edit == "move box" and keys:
        edited.boxes[key] = (edited.boxes[key][0], box, 0)
    elif edit == "crowd" and keys:
        of, corners, crowd = edited.boxes[key]
        edited.boxes[key] = (of, corners, 1 - crowd)


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits=edits, again=edits)
def test_any_edits_give_the_bytes_of_a_build_from_nothing(
    tmp_path_factory: pytest.TempPathFactory, fake: FakeTeacher, edits: Any, again: Any
) -> None:
    folder = tmp_path_factory.mktemp("edits")

    def make(data: Path) -> Any:
        return cache_photos(data, fake, jitter=1, **FAST)

    edited = some_photos(folder, photos=4, boxes=4)
    data = edited.index(folder / "data")
    make(data)
    for some in (edits, again):
        for edit, number in some:
            apply(edited, edit, number)
        if not any(box[2] >= 16 and not crowd for _, box, crowd in edited.boxes.values()):
            return
        edited.index(data)
        make(data)
        assert columns_of(data) == from_nothing(edited, folder / "fresh", make)
    shutil.rmtree(folder)


def test_a_box_that_became_a_crowd_has_no_value(tmp_path: Path, fake: FakeTeacher) -> None:
    edited = some_photos(tmp_path, photos=2)
    data = edited.index(tmp_path / "data")
    cache_crops(data, fake, **FAST)
    first = min(edited.boxes)
    edited.boxes[first] = (*edited.boxes[first][:2], 1)
    edited.index(data)
    assert cache_crops(data, fake, **FAST).copied_rows == 5
    assert not open_column(data, "crops").valid([0])[0]


def test_only_rows_of_changed_boxes_are_encoded(tmp_path: Path, fake: FakeTeacher) -> None:
    _, data = changed_since(tmp_path, lambda data: cache_crops(data, fake, **FAST), one_box_more)
    fake.rows = 0
    report = cache_crops(data, fake, reuse="any", **FAST)
    assert fake.rows == 1
    assert (report.copied_rows, report.made_rows) == (36, 1)


def test_a_photo_with_another_content_under_the_same_name_is_embedded(
    tmp_path: Path, fake: FakeTeacher
) -> None:
    edited = some_photos(tmp_path)
    data = edited.index(tmp_path / "data")
    cache_images(data, fake, **FAST)
    (tmp_path / "photos/003.png").write_bytes((tmp_path / "photos/010.png").read_bytes())  # the same size
    edited.boxes.popitem()
    edited.index(data)
    report = cache_images(data, fake, **FAST)
    assert report.copied_rows == 12, "photo 3 is photo 10 now, whose row is copied"
    rows = open_column(data, "images").all()
    assert (rows[3] == rows[10]).all()


def test_a_photo_replaced_before_a_second_index_is_not_copied(tmp_path: Path, fake: FakeTeacher) -> None:
    edited = some_photos(tmp_path)
    data = edited.index(tmp_path / "data")
    cache_images(data, fake, **FAST)
    (tmp_path / "photos/003.png").write_bytes((tmp_path / "photos/010.png").read_bytes())  # the same size
    edited.index(data)  # the same index: its column keeps the row of the earlier photo
    edited.index(data)
    edited.boxes.popitem()
    edited.index(data)
    cache_images(data, fake, **FAST)
    rows = open_column(data, "images").all()
    assert (rows[3] == rows[10]).all()


def test_replaced_photos_are_told_until_the_columns_are_made_again(tmp_path: Path, fake: FakeTeacher) -> None:
    edited = some_photos(tmp_path)
    data = edited.index(tmp_path / "data")
    cache_images(data, fake, **FAST)
    (tmp_path / "photos/003.png").write_bytes((tmp_path / "photos/010.png").read_bytes())

    def told() -> bool:
        report = build_index(tmp_path / "coco.json", tmp_path / "photos", data, "all-base")
        return any("1 photo is another than when columns" in line for line in report.lines())

    assert [told(), told()] == [True, True]
    cache_images(data, fake, overwrite=True, **FAST)
    assert [told(), told()] == [False, False]


def test_rows_of_another_device_are_refused_or_copied_as_asked(tmp_path: Path, fake: FakeTeacher) -> None:
    _, data = changed_since(tmp_path, lambda data: cache_crops(data, fake, **FAST), one_box_less)
    fake._matrix = fake._matrix * (1 + 1e-2 * np.random.default_rng(1).normal(size=fake._matrix.shape))
    with pytest.raises(UserError, match=r"stored rows differ from the same rows made here .* --reuse any"):
        cache_crops(data, fake, **FAST)
    assert cache_crops(data, fake, reuse="any", **FAST).made_rows == 0


def test_a_damaged_chunk_of_the_old_column_is_made_again(tmp_path: Path, teacher: Teacher) -> None:
    edited, data = changed_since(tmp_path, lambda data: cache_crops(data, teacher, **FAST), one_box_more)
    chunk = data / "crops/values/c.1.0"
    held = bytearray(chunk.read_bytes())
    held[5] ^= 1
    chunk.write_bytes(held)
    report = cache_crops(data, teacher, **FAST)
    assert report.copied_rows < 36 - 5
    expected = from_nothing(edited, tmp_path / "fresh", lambda data: cache_crops(data, teacher, **FAST))
    assert columns_of(data) == expected


def test_rows_of_another_data_set_are_copied(tmp_path: Path, teacher: Teacher) -> None:
    edited = some_photos(tmp_path)
    data = edited.index(tmp_path / "data")
    cache_crops(data, teacher, **FAST)
    edited.add_box("003.png", (2.0, 2.0, 20.0, 20.0))
    other = edited.index(tmp_path / "other")
    report = cache_crops(other, teacher, reuse_from=data, **FAST)
    assert (report.copied_rows, report.made_rows) == (36, 1)
    expected = from_nothing(edited, tmp_path / "fresh", lambda data: cache_crops(data, teacher, **FAST))
    assert columns_of(other) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reuse": "all"}, "--reuse is 'all'; choose one of same, any, none"),
        ({"reuse_from": "DATA", "overwrite": True}, "copies rows, but --overwrite makes every row"),
        ({"reuse_from": "DATA", "reuse": "none"}, "copies rows, but --reuse none makes every row"),
        ({"reuse_from": "nowhere"}, "There is no column crops under nowhere"),
        ({"reuse_from": "DATA", "crop": "square"}, "its column crops has recipe sha256:.*, expected sha256:"),
    ],
)
def test_mistakes(tmp_path: Path, teacher: Teacher, options: dict[str, Any], message: str) -> None:
    edited = some_photos(tmp_path, photos=2)
    data = edited.index(tmp_path / "data")
    cache_crops(data, teacher, **FAST)
    other = edited.index(tmp_path / "other")
    options = {key: data if value == "DATA" else value for key, value in options.items()}
    with pytest.raises(UserError, match=message):
        cache_crops(other, teacher, **FAST, **options)


def test_a_data_set_without_digests_cannot_be_a_source(tmp_path: Path, teacher: Teacher) -> None:
    edited = some_photos(tmp_path, photos=2)
    data = edited.index(tmp_path / "data")
    cache_crops(data, teacher, **FAST)
    for record in (data / "index").glob("photos-*"):
        record.unlink()
    other = edited.index(tmp_path / "other")
    with pytest.raises(UserError, match="its photos have no recorded digests"):
        cache_crops(other, teacher, reuse_from=data, **FAST)
