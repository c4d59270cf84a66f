"""Faults of disks and paths are one sentence; room is checked before work."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from cckt.cache_builder.base import disk_faults
from cckt.cache_builder.base.atomic_files import write_bytes
from cckt.cache_builder.base.disk_faults import explained_faults, require_room
from cckt.cache_builder.base.errors import UserError


def test_faults_of_paths_name_the_file_the_reason_and_the_next_step(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    for name, reason in {
        "file/below": "a part of this path is a file",
        "folder": "it is a folder, expected a file",
        "loop": "its symbolic links form a loop",
        "missing/file": "does not exist",
        "n" * 300: "the name is too long",
    }.items():
        sentence = f"/{name}: could not be used because .*{reason}.*; .* again"
        with pytest.raises(UserError, match=sentence), explained_faults():
            write_bytes(tmp_path / name, b"new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder", "loop"]


def test_a_full_disk_names_the_target_and_not_the_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    sentence = r"/file: could not be used because the disk is full; free space"
    with pytest.raises(UserError, match=sentence), explained_faults():
        write_bytes(tmp_path / "file", b"new")
    sentence = r"^/out: could not be used because the quota"
    with pytest.raises(UserError, match=sentence), explained_faults(Path("/out")):
        raise OSError(errno.EDQUOT, "Quota")


def test_other_errors_pass_unchanged() -> None:
    with pytest.raises(OSError, match="odd"), explained_faults():
        raise OSError("odd")


def test_room_is_checked_without_leaving_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_room(tmp_path / "a" / "b", 1)
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match=r"/file: could not be used because a part of this path is a file"):
        require_room(tmp_path / "file" / "below")
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=5))
    with pytest.raises(UserError, match=r"/a: found 0\.0 MB of free disk space, expected at least 2\.0 MB"):
        require_room(tmp_path / "a", 2_000_000)

    def readonly(**options: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system", "/tmp/name")

    monkeypatch.setattr(disk_faults.tempfile, "TemporaryFile", readonly)
    with pytest.raises(UserError, match=f"{tmp_path}/a: could not be used because the disk is read-only"):
        require_room(tmp_path / "a")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_folder_that_vanishes_while_the_disk_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    real = disk_faults.shutil.disk_usage

    def after_a_removal(place: Path) -> object:
        if (tmp_path / "a").is_dir():
            (tmp_path / "a").rmdir()
        return real(place)

    monkeypatch.setattr(disk_faults.shutil, "disk_usage", after_a_removal)
    require_room(tmp_path / "a")

    def never(place: Path) -> object:
        raise FileNotFoundError(2, "No such file or directory", str(place))

    monkeypatch.setattr(disk_faults.shutil, "disk_usage", never)
    with pytest.raises(UserError, match="it or its folder does not exist"):
        require_room(tmp_path)
