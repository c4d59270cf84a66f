"""Checks that read the tables themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cckt.cache_builder.index import build_index, novel_boxes, open_index, verify_index
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
