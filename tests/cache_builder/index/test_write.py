"""An index is complete or absent: built again, replaced, damaged, killed."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cckt.cache_builder.index import build_index, open_index, verify_index
from tests.cache_builder.index.coco_files import small_coco, write_coco, write_split
from tests.places import ROOT


def listing(folder: Path) -> dict[str, int]:
    return {
        str(p.relative_to(folder)): p.stat().st_mtime_ns for p in sorted(folder.rglob("*")) if p.is_file()
    }


def test_building_the_same_again_changes_nothing(tmp_path: Path) -> None:
    path, images = write_coco(tmp_path, small_coco())
    first = build_index(path, images, tmp_path / "out", "all-base")
    before = listing(tmp_path / "out")
    again = build_index(path, images, tmp_path / "out", "all-base")
    assert (first.unchanged, again.unchanged) == (False, True)
    assert listing(tmp_path / "out") == before
    assert again.digest == first.digest


def test_a_new_index_replaces_the_old_one_and_leaves_mapped_tables(tmp_path: Path) -> None:
    path, images = write_coco(tmp_path, small_coco())
    build_index(path, images, tmp_path / "out", "all-base")
    old = open_index(tmp_path / "out")
    boxes = old.box_xyxy.tolist()
    build_index(path, images, tmp_path / "out", write_split(tmp_path, ["cat"], ["dog"]), keep="base")
    new = open_index(tmp_path / "out")
    assert len(new.box_xyxy) == 1
    assert sorted(p.name for p in (tmp_path / "out/index").iterdir()) == ["index.json", new.card["tables"]]
    assert old.box_xyxy.tolist() == boxes, "a process that has mapped the old tables keeps them"
    with pytest.raises(AssertionError, match="replaced while it was in use"):
        pickle.loads(pickle.dumps(old))  # noqa: S301 - our own bytes


@pytest.mark.parametrize("name", ["areas", "file_name_bytes", "concept_boxes", "box_concepts"])
def test_a_damaged_table_is_found_and_built_again(tmp_path: Path, name: str) -> None:
    path, images = write_coco(tmp_path, small_coco())
    build_index(path, images, tmp_path / "out", "all-base")
    index = open_index(tmp_path / "out")
    table = tmp_path / "out/index" / index.card["tables"] / f"{name}.npy"
    whole = table.read_bytes()
    table.write_bytes(whole[:-4] + bytes([whole[-4] ^ 1]) + whole[-3:])
    assert not verify_index(open_index(tmp_path / "out"))
    assert not build_index(path, images, tmp_path / "out", "all-base").unchanged
    assert table.read_bytes() == whole
    assert verify_index(open_index(tmp_path / "out"))
    assert sorted(p.name for p in (tmp_path / "out/index").iterdir()) == ["index.json", index.card["tables"]]


KILL = """
import os, signal, sys
from pathlib import Path
import numpy as np
from cckt.cache_builder.index import build_index
module, name, calls, out, path, images, split = sys.argv[1:]
owner, calls = {"os": os, "np": np}[module], int(calls)
real = getattr(owner, name)
def deadly(*args, **kwargs):
    global calls
    calls -= 1
    if calls == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*args, **kwargs)
setattr(owner, name, deadly)
build_index(Path(path), Path(images), Path(out), Path(split), keep="base")
"""


@pytest.mark.parametrize("step", ["np save 5", "os rename 1", "os replace 1"])
def test_a_killed_build_leaves_the_old_index_or_none(tmp_path: Path, step: str) -> None:
    path, images = write_coco(tmp_path, small_coco())
    split = write_split(tmp_path, ["cat"], ["dog"])
    build_index(path, images, tmp_path / "old", "all-base")
    digest = open_index(tmp_path / "old").digest
    for out in ("old", "none"):
        arguments = [*step.split(), str(tmp_path / out), str(path), str(images), str(split)]
        killed = subprocess.run([sys.executable, "-c", KILL, *arguments], cwd=ROOT, check=False)
        assert killed.returncode == -signal.SIGKILL
    assert verify_index(open_index(tmp_path / "old"))
    assert open_index(tmp_path / "old").digest == digest
    assert not (tmp_path / "none/index/index.json").exists()
    for out in ("old", "none"):
        build_index(path, images, tmp_path / out, split, keep="base")
        index = open_index(tmp_path / out)
        assert index.annotation_ids.tolist() == [5]
        assert sorted(os.listdir(tmp_path / out / "index")) == ["index.json", index.card["tables"]]
