"""Permission denied, too many open files, photos that nobody can read: said as such, never as damage."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.untrusted import regular_files
from cckt.cache_builder.index.photo_files import headers
from cckt.detector.ranks import world as ranks
from cckt.detector.runs import file_digests
from tests.commands.front import World, cckt, index, options
from tests.faults.test_fuzz import Words, call
from tests.faults.test_listed_faults import ended, sentence

DENIED, TOO_MANY = "this user has no permission", "too many files are open"


def refusing(number: int, *parts: str, real: Callable[..., Any] = os.scandir) -> Callable[..., Any]:
    """Return a function that fails for paths that hold one of `parts`, as root cannot see it in a test."""

    def fail(path: Any = ".", *rest: Any, **options: Any) -> Any:
        if any(part in os.fsdecode(path) for part in parts):
            raise OSError(number, os.strerror(number), os.fsdecode(path))
        return real(path, *rest, **options)

    return fail


def test_every_folder_is_listed_but_lost_and_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("a", "b", "lost+found"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.png").touch()
    monkeypatch.setattr(os, "scandir", refusing(errno.EACCES, "lost+found"))
    found = [(folder.name, names) for folder, names in regular_files.walk_files(tmp_path)]
    assert found == [(tmp_path.name, []), ("a", ["x.png"]), ("b", ["x.png"])]
    monkeypatch.setattr(os, "scandir", refusing(errno.EACCES, "lost+found", "/b"))
    with pytest.raises(PermissionError):
        list(regular_files.walk_files(tmp_path))


@pytest.mark.parametrize(("number", "reason"), [(errno.EACCES, DENIED), (errno.EMFILE, TOO_MANY)])
def test_a_folder_of_photos_that_cannot_be_listed(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, reason: str
) -> None:
    shutil.copytree(world.folder / "photos", tmp_path / "photos/inside")
    monkeypatch.setattr(os, "scandir", refusing(number, "photos/inside"))
    given: Words = ["--annotations", world.folder / "coco.json", "--images", tmp_path / "photos/inside"]
    out = ["--out", tmp_path / "new"]
    for words in (
        ["data", "index", *given, *out],
        ["data", "index", "--images", tmp_path / "photos", *out],
        ["predict", world.run, tmp_path / "photos", "--recursive", "--vocabulary", "cup", *out],
    ):
        assert reason in sentence(words)
    assert not (tmp_path / "new").exists()


def test_photos_without_permission_are_counted_by_the_index(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = Path.open

    def denied(path: Path, *rest: Any, **options: Any) -> Any:
        if path.name == "0.png":
            raise OSError(errno.EACCES, "Permission denied", str(path))
        return real(path, *rest, **options)

    monkeypatch.setattr(Path, "open", denied)
    monkeypatch.setattr(headers, "read_header", lambda path: None if path.name == "0.png" else (64, 64, 1))
    monkeypatch.setattr("cckt.cache_builder.index.photo_files.record.read_header", headers.read_header)
    for name in ("coco.json", "split.json"):
        shutil.copy(world.folder / name, tmp_path)
    shutil.copytree(world.folder / "photos", tmp_path / "photos")
    outcome = cckt(capsys, *index(tmp_path, "held", "all"))
    assert outcome.code == 0, outcome.err
    assert "1 photo cannot be read, the first is 0.png (Permission denied)" in outcome.out
    text = sentence(["data", "index", "--images", tmp_path / "photos", "--out", tmp_path / "new"])
    assert "0.png: Permission denied); repair them, or move them elsewhere" in text


@pytest.mark.parametrize(("number", "reason"), [(errno.EACCES, DENIED), (errno.EMFILE, TOO_MANY)])
def test_digests_that_cannot_be_read_are_not_damaged(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, reason: str
) -> None:
    read = refusing(number, "digests.json", real=file_digests.read_regular)
    monkeypatch.setattr(file_digests, "read_regular", read)
    text = sentence(["eval", world.run, "--data", world.held, "--out", tmp_path / "new"])
    assert reason in text
    assert "damaged" not in text


def test_a_teacher_that_cannot_be_read(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cckt.cache_builder.teacher import clip

    read = refusing(errno.EACCES, "open_clip_config.json", real=clip.read_regular)
    monkeypatch.setattr(clip, "read_regular", read)
    assert DENIED in sentence(["cache", "text", world.held, "--teacher", world.teacher, "--out", tmp_path])


def test_training_without_a_readable_photo_is_refused(world: World, tmp_path: Path) -> None:
    for name in ("coco.json", "split.json"):
        shutil.copy(world.folder / name, tmp_path)
    shutil.copytree(world.folder / "photos", tmp_path / "photos")
    assert ended(index(tmp_path, "seen", "base"))[0] == 0
    for column in ("text", "crops"):
        assert ended(["cache", column, tmp_path / "seen", "--teacher", world.teacher])[0] == 0
    for photo in (tmp_path / "photos").iterdir():
        photo.write_bytes(b"no photo")
    words = ["train", "--recipe", "shapeworld", "--train", tmp_path / "seen", "--out", tmp_path / "run"]
    text = sentence([*words, "--max-steps", "1", *options()])
    assert "none of the 6 photos of" in text
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="needs sockets in a file system")
def test_a_socket_in_the_place_of_a_file(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the name of a socket is short
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("s")
        for words in (
            ["report", world.run, "--data", world.held, "--no-sweep", "--out", "s"],
            ["cache", "info", world.held, "--json", "s"],
            ["cache", "export", world.held, "text", "--out", "s"],
        ):
            code, err = call(words)
            assert code == 2, err
        assert Path("s").is_socket()


def test_a_rank_that_is_lost_at_the_start_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the watch has begun, and while the group forms; tests/detector/ranks has real deaths."""

    class Watching(contextlib.AbstractContextManager[None]):
        def __init__(self, *_: Any) -> None:
            pass

        def raise_if_lost(self, error: Exception) -> None:
            pass

        def __exit__(self, *_: object) -> None:
            pass

    def lost(*_: Any, **__: Any) -> None:
        raise RuntimeError("Connection closed by peer")

    for name, value in {"RANK": 1, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 1}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(ranks, "_rendezvous_store", lambda info: None)
    monkeypatch.setattr(ranks.dist, "init_process_group", lost)
    for monitor in (lost, Watching):
        monkeypatch.setattr(ranks, "RankMonitor", monitor)
        with (
            pytest.raises(UserError, match="rank 1 of 2 lost another rank at the start"),
            ranks.joined("cpu"),
        ):
            pass


def test_memory_that_is_used_up_is_a_sentence(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise MemoryError("Unable to allocate 43 TiB")

    # Not a function of the room's front, which a module that is imported meanwhile would keep.
    monkeypatch.setattr("cckt.cache_builder.index.reader.parse_json", full)
    assert "the memory of this machine is used up (Unable to allocate 43 TiB)" in sentence(
        ["cache", "verify", world.held]
    )
