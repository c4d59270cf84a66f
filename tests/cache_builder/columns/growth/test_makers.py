"""Data sets that grow in steps, by several makers, or through a kill: nothing old is lost before the end."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.columns.all_at_once import cache_all, cache_photos
from cckt.cache_builder.columns.crops import cache_crops, crops_spec
from cckt.cache_builder.columns.options import Making
from cckt.cache_builder.index import open_index
from cckt.cache_builder.runner import ExactPart
from cckt.cache_builder.runner.engines.engine import using
from cckt.cache_builder.runner.engines.local import LocalEngine
from cckt.cache_builder.runner.engines.ray_actor import MakerWork
from cckt.cache_builder.store import ColumnWriter, OtherColumn, list_columns, open_column
from cckt.cache_builder.teacher.clip import Teacher
from tests.cache_builder.columns.growth.fake_teacher import FakeTeacher
from tests.cache_builder.columns.growth.growing import (
    FAST,
    changed_since,
    columns_of,
    from_nothing,
    one_box_less,
    one_box_more,
    some_photos,
)


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
    _, data = changed_since(tmp_path, lambda data: cache_crops(data, teacher, **FAST), one_box_less)
    cache_crops(data, teacher, held=True, **FAST)
    shutil.rmtree(data / "crops")
    report = cache_crops(data, teacher, **FAST)
    assert report.made_chunks == 0
    assert open_column(data, "crops").manifest.spec.index_digest == open_index(data).digest


def test_parts_and_processes_copy_too(tmp_path: Path, teacher: Teacher) -> None:
    edited, data = changed_since(tmp_path, lambda data: cache_photos(data, teacher, **FAST), one_box_more)
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
    edited, data = changed_since(tmp_path, lambda data: make(data, teacher, **FAST), one_box_more)
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
    _, data = changed_since(tmp_path, lambda data: cache_crops(data, teacher, **FAST), one_box_more)
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
    edited, data = changed_since(
        tmp_path, lambda data: cache_crops(data, fake, **FAST), one_box_less, photos=3
    )
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
    _, data = changed_since(tmp_path, lambda data: cache_crops(data, fake, **FAST), one_box_less, photos=3)

    class Driver(LocalEngine):
        makes = False

    fake.rows = 0
    with using(Driver()):
        assert cache_crops(data, fake, **FAST).made_rows == 0
    assert fake.rows == 0
