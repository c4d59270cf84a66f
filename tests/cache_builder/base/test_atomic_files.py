"""Files appear complete; devices, pipes and links stay what they are."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cckt.cache_builder.base.atomic_files import (
    place,
    plain,
    short_name,
    temporary_of,
    whole_files,
    write_bytes,
    write_json,
    write_together,
)
from cckt.cache_builder.base.digests import digest_of, file_digest


def test_a_file_has_its_new_content_and_nothing_else_is_left(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    write_bytes(tmp_path / "file", b"new")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"file": b"new"}
    write_json(tmp_path / "other.json", {"a": float("nan"), "b": (1, Path("x"))})
    assert (tmp_path / "other.json").read_text() == '{\n  "a": null,\n  "b": [\n    1,\n    "x"\n  ]\n}\n'
    assert plain({1: [float("inf"), 0.5]}) == {"1": [None, 0.5]}


def test_a_partial_file_of_a_killed_process_is_replaced(tmp_path: Path) -> None:
    temporary_of(tmp_path / "file").write_text("half")
    write_bytes(tmp_path / "file", b"new")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"file": b"new"}


def test_a_new_file_never_replaces_one(tmp_path: Path) -> None:
    assert place(b"one", tmp_path / "file", tmp_path / "part", new=True)
    assert not place(b"two", tmp_path / "file", tmp_path / "part", new=True)
    assert place(b"three", tmp_path / "file", tmp_path / "part")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"file": b"three"}


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_bytes(tmp_path / "file", b"new")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"file": b"old"}


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    for target in ("file", "missing"):
        (tmp_path / f"link-{target}").symlink_to(target)
        write_bytes(tmp_path / f"link-{target}", b"new")
        assert (tmp_path / f"link-{target}").is_symlink()
        assert (tmp_path / target).read_bytes() == b"new"


def test_a_device_stays_a_device() -> None:
    write_bytes(Path(os.devnull), b"new")
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_stays_a_pipe_and_passes_the_content_on(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    received: list[bytes] = []
    reader = threading.Thread(target=lambda: received.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    write_bytes(tmp_path / "link", b"new")
    reader.join()
    assert received == [b"new"]
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_device_that_refuses_is_not_replaced() -> None:
    with pytest.raises(OSError, match="No space"):
        write_bytes(Path("/dev/full"), b"new")
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode)
    assert not list(Path("/dev").glob(".full*"))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /dev/stdout as on Linux")
def test_stdout_that_is_redirected_to_a_file_keeps_all_its_lines(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from cckt.cache_builder.base.atomic_files import write_bytes\n"
        "print('one', flush=True); write_bytes(Path('/dev/stdout'), b'two\\n'); print('three')"
    )
    with (tmp_path / "log").open("ab") as log:
        subprocess.run([sys.executable, "-c", code], stdout=log, check=True)
    assert (tmp_path / "log").read_text().split() == ["one", "two", "three"]


def test_files_that_belong_together_appear_together_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {tmp_path / "a": b"1", tmp_path / "b": b"2"}
    real, calls = os.fsync, []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space.*/\.?b"):
        write_together(files)
    assert not list(tmp_path.iterdir())
    write_together(files)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == files


def test_digests_of_bytes_and_files_agree(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    assert digest_of(b"abc") == file_digest(tmp_path / "file")
    assert digest_of(b"abc") == "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_temporary_files_of_killed_processes_are_swept_and_others_kept(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    mine = temporary_of(tmp_path / "elsewhere" / "other").name
    left = mine.replace(f".{os.getpid()}.", f".{ended.pid}.")
    running = mine.replace(f".{os.getpid()}.", f".{os.getppid()}.")
    kept = {running, ".notes.123.partial", f".notes.0123abcd.{ended.pid}.partial", "a.partial"}
    for name in (left, *kept):
        (tmp_path / name).write_text("half")
    write_bytes(tmp_path / "file", b"new")
    assert {path.name for path in tmp_path.iterdir()} == {"file", *kept}


def test_a_name_of_the_greatest_length_is_written(tmp_path: Path) -> None:
    for name in ("n" * 255, "é" * 127):
        write_bytes(tmp_path / name, b"x")
        assert (tmp_path / name).read_bytes() == b"x"
    assert len(list(tmp_path.iterdir())) == 2


@given(
    st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="/\0"), min_size=1),
    st.integers(20, 60),
)
def test_short_names(name: str, most: int) -> None:
    short = short_name(name, most)
    assert len(os.fsencode(short)) <= most
    assert (short == name) == (len(os.fsencode(name)) <= most)
    assert short_name("x" + name * 40, most) != short_name("y" + name * 40, most)


def test_whole_files_appear_together_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")

    def fail() -> None:
        with whole_files(tmp_path / "a", tmp_path / "b") as files:
            files[0].write(b"new")
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        fail()
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a", "old")]
    with whole_files(tmp_path / "a", tmp_path / "b") as files:
        for file in files:
            file.write(b"new")
        assert (tmp_path / "a").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
    assert (tmp_path / "b").read_text() == "new"
    with pytest.raises(OSError, match="No such file"), whole_files(tmp_path / "no/such"):
        pass
