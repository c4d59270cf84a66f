"""Grow a data set: rows of the same photo, box and recipe are copied; the bytes are as from nothing."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.columns.all_at_once import cache_all, cache_photos
from cckt.cache_builder.columns.crops import cache_crops, crops_spec
from cckt.cache_builder.columns.images import cache_images
from cckt.cache_builder.columns.options import Making
from cckt.cache_builder.index import open_index
from cckt.cache_builder.runner import ExactPart
from cckt.cache_builder.runner.engines.engine import using
from cckt.cache_builder.runner.engines.local import LocalEngine
from cckt.cache_builder.runner.engines.ray_actor import MakerWork
from cckt.cache_builder.store import ColumnWriter, OtherColumn, list_columns, open_column
from cckt.cache_builder.teacher.clip import Teacher
from tests.cache_builder.column_samples import tree
from tests.cache_builder.columns.growth.fake_teacher import FakeTeacher
from tests.cache_builder.columns.growth.growing import Edited, some_photos

FAST = {"chunk_rows": 16, "batch": 8, "workers": 1}


@pytest.fixture
def fake(teacher: Teacher) -> FakeTeacher:
    return FakeTeacher(teacher)


def from_nothing(edited: Edited, place: Path, make: Any) -> dict[str, str]:
    """Return the files of the columns of the same data set, made without an older column."""
    data = edited.index(place)
    make(data)
    files = tree(data)
    shutil.rmtree(data)
    return {name: digest for name, digest in files.items() if not name.startswith("index/")}


def columns_of(data: Path) -> dict[str, str]:
    return {name: digest for name, digest in tree(data).items() if not name.startswith("index/")}


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
    edited = some_photos(tmp_path)
    data = edited.index(tmp_path / "data")
    cache_crops(data, fake, **FAST)
    edited.add_box("003.png", (2.0, 2.0, 20.0, 20.0))
    edited.index(data)
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


def test_the_old_index_and_columns_are_valid_until_the_new_ones_are_finished(
    tmp_path: Path, teacher: Teacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    edited = some_photos(tmp_path)
    data = edited.index(tmp_path / "data")
    cache_crops(data, teacher, **FAST)
    old = open_index(data).digest
    before = columns_of(data)
    edited.add_photo("new.png", 50)
    edited.add_box("new.png", (0.0, 0.0, 20.0, 20.0))
    edited.index(data)

    def written(self: ColumnWriter, chunk: int, *rest: Any, **options: Any) -> int:
        raise UserError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(ColumnWriter, "write", written)
        with pytest.raises(UserError, match="the disk is full"):
            cache_crops(data, teacher, **FAST)
    assert {name: one for name, one in columns_of(data).items() if not name.startswith(".grow")} == before
    index = open_index(data, old)
    assert len(open_column(data, "crops", index_digest=index.digest)) == len(index.box_images)
    assert list_columns(data) == ["crops"]
    cache_crops(data, teacher, **FAST)
    assert open_column(data, "crops").manifest.spec.index_digest == open_index(data).digest != old
    assert not (data / ".grow").exists()
    with pytest.raises(UserError, match=f"holds no index {old}"):
        open_index(data, old)


def test_a_kill_between_the_two_renames_is_mended(tmp_path: Path, teacher: Teacher) -> None:
    edited = some_photos(tmp_path)
    data = edited.index(tmp_path / "data")
    cache_crops(data, teacher, **FAST)
    edited.boxes.popitem()
    edited.index(data)
    cache_crops(data, teacher, held=True, **FAST)
    shutil.rmtree(data / "crops")
    report = cache_crops(data, teacher, **FAST)
    assert report.made_chunks == 0
    assert open_column(data, "crops").manifest.spec.index_digest == open_index(data).digest


def test_rows_of_another_device_are_refused_or_copied_as_asked(tmp_path: Path, fake: FakeTeacher) -> None:
    edited = some_photos(tmp_path)
    data = edited.index(tmp_path / "data")
    cache_crops(data, fake, **FAST)
    edited.boxes.popitem()
    edited.index(data)
    fake._matrix = fake._matrix * (1 + 1e-2 * np.random.default_rng(1).normal(size=fake._matrix.shape))
    with pytest.raises(UserError, match=r"stored rows differ from the same rows made here .* --reuse any"):
        cache_crops(data, fake, **FAST)
    assert cache_crops(data, fake, reuse="any", **FAST).made_rows == 0


def test_a_damaged_chunk_of_the_old_column_is_made_again(tmp_path: Path, teacher: Teacher) -> None:
    edited = some_photos(tmp_path)
    data = edited.index(tmp_path / "data")
    cache_crops(data, teacher, **FAST)
    edited.add_box("003.png", (2.0, 2.0, 20.0, 20.0))
    edited.index(data)
    chunk = data / "crops/values/c.1.0"
    held = bytearray(chunk.read_bytes())
    held[5] ^= 1
    chunk.write_bytes(held)
    report = cache_crops(data, teacher, **FAST)
    assert report.copied_rows < 36 - 5
    expected = from_nothing(edited, tmp_path / "fresh", lambda data: cache_crops(data, teacher, **FAST))
    assert columns_of(data) == expected


def test_parts_and_processes_copy_too(tmp_path: Path, teacher: Teacher) -> None:
    edited = some_photos(tmp_path)
    data = edited.index(tmp_path / "data")
    cache_photos(data, teacher, **FAST)
    edited.add_box("003.png", (2.0, 2.0, 20.0, 20.0))
    edited.index(data)
    first = cache_photos(data, teacher, **FAST, part=ExactPart((1, 2)))
    assert first[0].manifest is None
    second = cache_photos(data, teacher, **{**FAST, "processes": True}, part=ExactPart((0, 2)))
    assert second[0].manifest is not None
    assert first[0].copied_rows + second[0].copied_rows == 36
    expected = from_nothing(edited, tmp_path / "fresh", lambda data: cache_photos(data, teacher, **FAST))
    assert columns_of(data) == expected


@pytest.mark.parametrize("make", [cache_crops, cache_all])
def test_makers_that_share_a_growing_column_give_the_bytes_of_one(
    tmp_path: Path, teacher: Teacher, make: Any
) -> None:
    """Each of them finishes the column or finds it finished and moved to its place."""
    edited = some_photos(tmp_path)
    data = edited.index(tmp_path / "data")
    make(data, teacher, **FAST)
    edited.add_box("003.png", (2.0, 2.0, 20.0, 20.0))
    edited.index(data)
    reports: list[Any] = []

    def maker(number: int) -> None:
        reports.append(make(data, teacher, part=(number, 3), **FAST))

    makers = [threading.Thread(target=maker, args=(number,)) for number in range(3)]
    for one in makers:
        one.start()
    for one in makers:
        one.join()
    assert len(reports) == 3
    assert not (data / ".grow").exists()
    assert columns_of(data) == from_nothing(
        edited, tmp_path / "fresh", lambda data: make(data, teacher, **FAST)
    )


def test_a_maker_that_waits_finds_the_column_in_its_place(tmp_path: Path, teacher: Teacher) -> None:
    edited = some_photos(tmp_path)
    data = edited.index(tmp_path / "data")
    cache_crops(data, teacher, **FAST)
    edited.add_box("003.png", (2.0, 2.0, 20.0, 20.0))
    edited.index(data)
    late = Making(**FAST).begin(data, crops_spec(open_index(data), teacher, "box", 8, 16), open_index(data))
    assert late.writer.missing()
    cache_crops(data, teacher, **FAST)
    assert late.writer.missing() == []
    assert late.writer.stands(0)
    with late.writer.claims(late.writer.n_chunks):
        pass
    late.finish(late.writer.try_finish())
    assert not (data / ".grow").exists()
    assert late.writer.finish() == open_column(data, "crops").manifest


def test_a_worker_never_removes_a_column_that_its_driver_has_begun(
    tmp_path: Path, fake: FakeTeacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    edited = some_photos(tmp_path, photos=3)
    data = edited.index(tmp_path / "data")
    cache_crops(data, fake, **FAST)
    edited.boxes.popitem()
    edited.index(data)
    driver = Making(**FAST).begin(data, crops_spec(open_index(data), fake, "box", 8, 16), open_index(data))
    edited.boxes.popitem()
    edited.index(data)  # as a node with other annotations would see it
    monkeypatch.setattr(MakerWork, "__init__", lambda self: None)
    with using(MakerWork()), pytest.raises(OtherColumn):  # type: ignore[call-arg]
        cache_crops(data, fake, **FAST)
    assert driver.writer.missing() == [0]
    assert cache_crops(data, fake, **FAST).manifest is not None, "any other process begins its own"


def test_a_driver_leaves_the_comparison_of_rows_to_its_workers(tmp_path: Path, fake: FakeTeacher) -> None:
    """Its device may differ from theirs."""
    edited = some_photos(tmp_path, photos=3)
    data = edited.index(tmp_path / "data")
    cache_crops(data, fake, **FAST)
    edited.boxes.popitem()
    edited.index(data)

    class Driver(LocalEngine):
        makes = False

    fake.rows = 0
    with using(Driver()):
        assert cache_crops(data, fake, **FAST).made_rows == 0
    assert fake.rows == 0


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
