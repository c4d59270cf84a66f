"""Checks that read the tables themselves."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cckt.cache_builder.index import (
    DamagedIndexError,
    build_index,
    index_problems,
    novel_boxes,
    open_index,
    verify_index,
)
from tests.cache_builder.index.coco_files import small_coco, write_coco, write_split


@pytest.mark.parametrize("table", ["box_concepts", "concept_box_offsets"])
def test_the_leak_check_reads_the_tables_themselves(tmp_path: Path, table: str) -> None:
    path, images = write_coco(tmp_path, small_coco())
    build_index(path, images, tmp_path / "out", write_split(tmp_path, ["cat", "dog"], ["fire_truck"]), "base")
    index = open_index(tmp_path / "out")
    assert novel_boxes(index) == 0
    tampered = {"box_concepts": np.array([1, 0], np.int32), "concept_box_offsets": np.array([0, 1, 1, 2])}
    np.save(tmp_path / "out/index" / index.card["tables"] / f"{table}.npy", tampered[table])
    assert novel_boxes(open_index(tmp_path / "out")) == 1
    assert not verify_index(open_index(tmp_path / "out"))


def test_files_of_an_index_that_changed_vanished_or_are_foreign_are_named(tmp_path: Path) -> None:
    path, images = write_coco(tmp_path, small_coco())
    build_index(path, images, tmp_path / "out", "all-base")
    index = open_index(tmp_path / "out")
    assert index_problems(index) == []
    folder = tmp_path / "out/index"
    tables = folder / index.card["tables"]
    head = bytearray((tables / "areas.npy").read_bytes())
    head[100] ^= 0x20  # a space of the padding of the array's head, which no value depends on
    (tables / "areas.npy").write_bytes(head)
    (tables / "notes.txt").write_text("mine")
    (folder / "old.json").write_text("{}")
    name = tables.name
    assert index_problems(index) == [
        f"{name}/areas.npy is damaged",
        "old.json does not belong to the index",
        f"{name}/notes.txt does not belong to the index",
    ]
    (folder / "old.json").unlink()
    (tables / "notes.txt").unlink()
    build_index(path, images, tmp_path / "out", "all-base")
    assert index_problems(open_index(tmp_path / "out")) == [], "expected the damaged table to be made again"
    (tables / "areas.npy").unlink()
    assert index_problems(index)[0] == f"{name}/areas.npy is missing"


def test_an_index_of_an_earlier_version_is_checked_by_its_contents(tmp_path: Path) -> None:
    path, images = write_coco(tmp_path, small_coco())
    build_index(path, images, tmp_path / "out", "all-base")
    card_path = tmp_path / "out/index/index.json"
    card = json.loads(card_path.read_text())
    del card["files"], card["card_digest"]
    card_path.write_text(json.dumps(card))
    index = open_index(tmp_path / "out")
    assert index_problems(index) == []
    areas = tmp_path / "out/index" / card["tables"] / "areas.npy"
    np.save(areas, np.load(areas) + 1)
    assert index_problems(open_index(tmp_path / "out")) == ["the tables are not those that were built"]


def test_a_card_that_was_edited_is_refused_on_opening(tmp_path: Path) -> None:
    path, images = write_coco(tmp_path, small_coco())
    build_index(path, images, tmp_path / "out", "all-base")
    card_path = tmp_path / "out/index/index.json"
    card_path.write_text(card_path.read_text().replace('"split": "all-base"', '"split": "ill-base"'))
    with pytest.raises(DamagedIndexError, match=r"index\.json was changed after it was built"):
        open_index(tmp_path / "out")
