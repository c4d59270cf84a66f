"""An endless device or a pipe without a writer in the place of any file: no hang, no full memory."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cckt.cache_builder.base.digests import file_digest
from cckt.cache_builder.base.disk_faults import explain
from cckt.cache_builder.base.untrusted.bounded import memory_limit
from cckt.cache_builder.base.untrusted.npy_files import read_npy
from cckt.cache_builder.base.untrusted.regular_files import SpecialFileError, read_regular, read_regular_text
from tests.commands.front import World
from tests.faults.test_fuzz import MOST_BYTES, Words, call

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs pipes and devices as on POSIX")

PLACES: tuple[Callable[[Path], object], ...] = (os.mkfifo, lambda path: path.symlink_to("/dev/zero"))


@pytest.mark.parametrize("make", PLACES)
@pytest.mark.parametrize("read", [read_regular, read_regular_text, read_npy, file_digest])
def test_a_device_or_a_pipe_is_no_file(
    tmp_path: Path, make: Callable[[Path], object], read: Callable[[Path], object]
) -> None:
    make(tmp_path / "x")
    with pytest.raises(SpecialFileError) as caught:
        read(tmp_path / "x")
    found = explain(caught.value)
    assert found is not None
    assert f"{tmp_path / 'x'}: it is a device or a pipe, expected a regular file; name another" in str(found)


def test_a_pipe_of_the_shell_is_read() -> None:
    reading, writing = os.pipe()
    os.write(writing, b"a\n")
    os.close(writing)
    assert read_regular_text(Path(f"/dev/fd/{reading}")) == "a\n"
    os.close(reading)


def replaced(folder: Path, files: list[Path], words: Words, wrong: list[str]) -> int:
    """Replace each file in turn and run the command; return the number of cases."""
    for path in files:
        kept = path.with_name(f"{path.name}.kept")
        path.rename(kept)
        for make in PLACES:
            make(path)
            with memory_limit(MOST_BYTES):
                code, err = call(words)
            if code not in (0, 2) or "Traceback" in err:
                wrong.append(f"{path.relative_to(folder)}, {words[:2]}: {code} {err.strip()[-200:]}")
            path.unlink()
        kept.rename(path)
    return len(files) * len(PLACES)


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_every_file_of_data_columns_runs_and_teachers(world: World, tmp_path: Path) -> None:
    data, run, teacher = tmp_path / "held", tmp_path / "run", tmp_path / "teacher"
    shutil.copytree(world.held, data)
    shutil.copytree(world.run, run, ignore=shutil.ignore_patterns("tensorboard", "digests.json"))
    shutil.copytree(world.teacher.partition(":")[2], teacher)
    wrong: list[str] = []
    named = ["--teacher", f"local-dir:{teacher}"]
    count = replaced(tmp_path, files_of(data), ["cache", "verify", data, "--sample", "0"], wrong)
    count += replaced(tmp_path, files_of(data / "index"), ["cache", "info", data], wrong)
    chunks = [path for path in files_of(data) if path.name.startswith("c.")]
    assert chunks
    count += replaced(tmp_path, chunks, ["eval", run, "--data", data, "--out", tmp_path / "e"], wrong)
    photo = world.folder / "photos/0.png"
    predict = ["predict", run, photo, "--vocabulary", "cup", *named, "--out", tmp_path / "new"]
    count += replaced(tmp_path, [path for path in run.iterdir() if path.is_file()], predict, wrong)
    resume = ["train", "--resume", run, "--max-steps", "1"]
    count += replaced(tmp_path, files_of(run / "checkpoints"), resume, wrong)
    text = ["cache", "text", data, *named, "--out", tmp_path / "text"]
    count += replaced(tmp_path, files_of(teacher), text, wrong)
    for option in (
        [
            "data",
            "index",
            "--images",
            photo.parent,
            "--out",
            tmp_path / "i",
            "--split",
            "all-base",
            "--annotations",
        ],
        ["eval", run, "--data", data, "--detections"],
        ["cache", "text", data, *named, "--out", tmp_path / "t", "--templates"],
        ["cache", "text", data, "--out", tmp_path / "t", "--import"],
        ["predict", run, photo, "--vocabulary", "cup", "--out", tmp_path / "p", "--text"],
        ["train", "--train", data, "--out", tmp_path / "r", "--config"],
    ):
        for suffix in ("", ".json", ".npy", ".safetensors", ".pt"):
            path = tmp_path / f"file{suffix}"
            path.write_text("x")
            count += replaced(tmp_path, [path], [*option, path], wrong)
            path.unlink()
    assert count > 120
    assert not wrong, "\n".join(wrong)
