"""Columns over proposals grow: rows of the same photo and box are copied, replaced tables are kept."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.columns.all_at_once import cache_photos
from cckt.cache_builder.columns.crops import cache_crops
from cckt.cache_builder.columns.growth.tables import table_of
from cckt.cache_builder.columns.proposals import import_proposals
from cckt.cache_builder.index import index_problems, open_index
from cckt.cache_builder.proposals import Proposals, Selection, open_proposals
from cckt.cache_builder.store import list_columns, open_column
from cckt.cache_builder.teacher.clip import Teacher
from tests.cache_builder.column_samples import tree
from tests.cache_builder.columns.growth.fake_teacher import FakeTeacher
from tests.cache_builder.columns.growth.growing import Edited, some_photos

FAST = {"chunk_rows": 16, "batch": 8, "workers": 0}


@pytest.fixture
def fake(teacher: Teacher) -> FakeTeacher:
    return FakeTeacher(teacher)


def propose(edited: Edited, data: Path, shift: float = 0.0) -> None:
    """Index the data set and import three proposals for each photo; `shift` moves the first one."""
    edited.index(data)
    boxes = [
        {"image_id": edited.ids[name], "bbox": [k + shift * (k == 0), k, 20, 18 + k], "score": 0.9 - k / 10}
        for name in edited.photos
        for k in range(3)
    ]
    (edited.folder / "results.json").write_text(json.dumps(boxes))
    import_proposals(
        data, edited.folder / "results.json", selection=Selection(min_side=4, nms=1), overwrite=True
    )


def crop(data: Path, teacher: Teacher) -> list[Any]:
    """Make all views of the crops of proposals."""
    return cache_photos(data, teacher, kinds=("crops",), of="proposals", flipped=True, jitter=1, **FAST)


def columns_of(data: Path) -> dict[str, str]:
    return {name: digest for name, digest in tree(data).items() if not name.startswith("index/")}


def test_crops_of_proposals_are_copied_to_the_bytes_of_a_build_from_nothing(
    tmp_path: Path, fake: FakeTeacher
) -> None:
    edited = some_photos(tmp_path, photos=6, boxes=2)
    data = tmp_path / "data"
    propose(edited, data)
    crop(data, fake)
    old = open_proposals(data, open_index(data))
    edited.add_photo("zzz.png", 99)
    edited.remove_photo("004.png")
    edited.rename_photo("005.png", "a-new-name.png")
    propose(edited, data)
    kept = table_of(data, data, open_column(data, "proposals/crops").manifest.spec)
    assert isinstance(kept, Proposals)
    assert (kept.digest, kept.box_xyxy.tolist()) == (old.digest, old.box_xyxy.tolist())
    assert list_columns(data) == ["proposals/boxes", "proposals/crops", "proposals/crops-flipped",
                                  "proposals/crops-jitter-1"]  # fmt: skip
    assert index_problems(open_index(data)) == []
    fake.rows = 0
    reports = crop(data, fake)
    assert [(report.copied_rows, report.made_rows) for report in reports] == [(15, 3)] * 3
    assert fake.rows == 3 * (3 + 15), "three rows made, and all 15 (at most 16) compared"
    assert not (data / ".kept").exists()
    assert not (data / ".grow").exists()
    assert len(list((data / "index").glob("tables-*"))) == 1
    propose(edited, tmp_path / "fresh")
    crop(tmp_path / "fresh", fake)
    assert columns_of(data) == columns_of(tmp_path / "fresh")


def test_other_proposals_over_the_same_index_cost_only_their_own_boxes(
    tmp_path: Path, fake: FakeTeacher
) -> None:
    edited = some_photos(tmp_path, photos=4, boxes=2)
    data = tmp_path / "data"
    propose(edited, data)
    cache_crops(data, fake, of="proposals", **FAST)
    propose(edited, data, shift=2.5)
    report = cache_crops(data, fake, of="proposals", **FAST)
    assert (report.copied_rows, report.made_rows) == (8, 4)
    propose(edited, tmp_path / "fresh", shift=2.5)
    cache_crops(tmp_path / "fresh", fake, of="proposals", **FAST)
    assert columns_of(data) == columns_of(tmp_path / "fresh")


def test_replaced_proposals_without_a_column_are_not_kept(tmp_path: Path) -> None:
    edited = some_photos(tmp_path, photos=3, boxes=1)
    data = tmp_path / "data"
    propose(edited, data)
    propose(edited, data, shift=1.5)
    assert list_columns(data) == ["proposals/boxes"]
    assert not (data / ".kept").exists()


def test_a_table_that_is_gone_is_one_sentence(tmp_path: Path, fake: FakeTeacher) -> None:
    edited = some_photos(tmp_path, photos=3, boxes=1)
    data = tmp_path / "data"
    propose(edited, data)
    cache_crops(data, fake, of="proposals", **FAST)
    spec = open_column(data, "proposals/crops").manifest.spec
    shutil.rmtree(data / "proposals/boxes")
    with pytest.raises(UserError, match=rf"holds no proposals table {spec.index_digest}: expected the"):
        table_of(data, data, spec)
