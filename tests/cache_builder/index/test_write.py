"""An index is complete or absent: built again, replaced, damaged, killed."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.index import DamagedIndexError, Index, build_index, open_index, verify_index
from cckt.cache_builder.index.write import write_index
from tests.cache_builder.index.coco_files import small_coco, write_coco, write_split
from tests.places import ROOT


def listing(folder: Path) -> dict[str, int]:
    return {
        str(p.relative_to(folder)): p.stat().st_mtime_ns for p in sorted(folder.rglob("*")) if p.is_file()
    }


def names_of(index: Index) -> list[str]:
    """Return the sorted names in the folder of an index of photos: card, record of the photos, tables."""
    tables = index.card["tables"]
    return ["index.json", f"photos-{tables.removeprefix('tables-')}.npy", tables]


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
    assert sorted(p.name for p in (tmp_path / "out/index").iterdir()) == names_of(new)
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
    if name == "box_concepts":  # a row that is not there, which is seen at once
        with pytest.raises(DamagedIndexError):
            open_index(tmp_path / "out")
    else:
        assert not verify_index(open_index(tmp_path / "out"))
    assert not build_index(path, images, tmp_path / "out", "all-base").unchanged
    assert table.read_bytes() == whole
    assert verify_index(open_index(tmp_path / "out"))
    assert sorted(p.name for p in (tmp_path / "out/index").iterdir()) == names_of(index)


def test_folders_and_files_of_somebody_else_are_kept(tmp_path: Path) -> None:
    path, images = write_coco(tmp_path, small_coco())
    folder = tmp_path / "out/index"
    foreign = ["tables-old/a", "tables-0123456789abcdef/image_ids.npy/a", "tables-0123456789abcdea/b"]
    foreign += [".building-old/a", ".damaged-1/b", ".index.json-backup", "notes-1"]
    for name in foreign:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("precious")
    (folder / "tables-0123456789abcdeb").mkdir()
    np.save(folder / "tables-0123456789abcdeb/image_ids.npy", np.arange(3))
    build_index(path, images, tmp_path / "out", "all-base")
    assert [(folder / name).read_text() for name in foreign] == ["precious"] * len(foreign)
    assert not (folder / "tables-0123456789abcdeb").exists(), "expected our unused tables to be swept"


def test_an_index_json_or_tables_of_somebody_else_are_refused(tmp_path: Path) -> None:
    path, images = write_coco(tmp_path, small_coco())
    card = tmp_path / "out/index/index.json"
    card.parent.mkdir(parents=True)
    card.write_text('{"title": "my site"}')
    with pytest.raises(UserError, match=r"index\.json that is not an index made by cckt data index"):
        write_index(tmp_path / "out", open_built(tmp_path, path, images), {"tables": "tables-" + "0" * 16})
    assert card.read_text() == '{"title": "my site"}'
    card.unlink()
    build_index(path, images, tmp_path / "out", "all-base")
    tables = card.parent / open_index(tmp_path / "out").card["tables"]
    (tables / "notes.txt").write_text("precious")
    (tables / "areas.npy").unlink()
    with pytest.raises(UserError, match=r"tables-.* that is not a folder of tables"):
        build_index(path, images, tmp_path / "out", "all-base")
    (tables / "notes.txt").unlink()
    card.write_text("cut sho")
    build_index(path, images, tmp_path / "out", "all-base")
    assert verify_index(open_index(tmp_path / "out")), "expected a damaged index of ours to be built again"


def open_built(folder: Path, path: Path, images: Path) -> Index:
    build_index(path, images, folder / "built", "all-base")
    return open_index(folder / "built")


def test_a_full_disk_leaves_no_unfinished_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, images = write_coco(tmp_path, small_coco())

    def full(*given: object, **options: object) -> None:
        raise OSError("30 requested and 0 written")

    monkeypatch.setattr("numpy.save", full)
    with pytest.raises(UserError, match=r"index cannot be written \(30 requested and 0 written\)"):
        build_index(path, images, tmp_path / "out", "all-base")
    assert not list((tmp_path / "out/index").iterdir())


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
        assert sorted(os.listdir(tmp_path / out / "index")) == names_of(index)


def test_tables_of_a_killed_build_are_removed_where_only_the_record_of_photos_differs(tmp_path: Path) -> None:
    path, images = write_coco(tmp_path, small_coco())
    build_index(path, images, tmp_path / "out", "all-base")
    folder = tmp_path / "out" / "index"
    index = open_index(tmp_path / "out")
    shutil.copytree(folder / index.card["tables"], folder / "tables-0123456789abcdef")
    (folder / names_of(index)[1]).write_bytes(b"")
    assert build_index(path, images, tmp_path / "out", "all-base").unchanged
    assert sorted(os.listdir(folder)) == names_of(index)
