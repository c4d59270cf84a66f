"""Photos that must never be opened, and refusals of the system, which are never called damage."""

from __future__ import annotations

import ast
import errno
import io
import os
import shutil
import stat
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, UnidentifiedImageError

from cckt.cache_builder import photos
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.untrusted.image_files import FORMATS, known_formats, open_image
from cckt.cache_builder.index import open_index
from cckt.cache_builder.photos import (
    check_folder,
    check_photos,
    load_or_reason,
    load_photo,
    load_row,
    unreadable_warning,
)
from tests.cache_builder.conftest import HEIGHT, WIDTH
from tests.cache_builder.samples import write_photos
from tests.cache_builder.test_photos import reason, save
from tests.places import ROOT

EPS = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 20 20
%%EndComments
0 0 20 20 rectfill
showpage
%%EOF
"""


def test_an_eps_named_jpg_does_not_start_ghostscript(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs, ran = tmp_path / "bin", tmp_path / "ran"
    programs.mkdir()
    for name in ("gs", "gswin32c", "gswin64c"):
        program = programs / name
        program.write_text(f"#!/bin/sh\necho \"$@\" >> '{ran}'\nexit 1\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    assert shutil.which("gs") == str(programs / "gs")
    path = tmp_path / "a.jpg"
    path.write_bytes(EPS)
    with Image.open(path) as image:  # Pillow by itself starts it
        assert image.format == "EPS"
        with pytest.raises(Exception, match=r".*"):
            image.load()
    assert ran.exists()
    ran.unlink()
    assert reason(path) == "is not an image in a supported format"
    with pytest.raises(UnidentifiedImageError), open_image(io.BytesIO(EPS)):
        pass
    assert not ran.exists()


@pytest.mark.parametrize("kind", ["PDF", "ICO", "TGA", "PCX", "DDS", "SGI"])
def test_formats_that_are_not_listed_are_refused(tmp_path: Path, pixels: np.ndarray, kind: str) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path, kind)
    assert reason(path) == "is not an image in a supported format"


@pytest.mark.parametrize("kind", FORMATS)
def test_formats_that_are_listed_are_read_whatever_the_name(
    tmp_path: Path, pixels: np.ndarray, kind: str
) -> None:
    if kind not in known_formats():
        pytest.skip(f"this Pillow cannot read {kind}")
    path = tmp_path / "a.xyz"
    Image.fromarray(pixels).save(path, kind)
    assert load_photo(path, (WIDTH, HEIGHT)).size == (WIDTH, HEIGHT)


def test_only_open_image_calls_pillow_to_open_a_file() -> None:
    rooms = ("ablation", "benchmarks", "cache_builder", "commands", "detector", "shapeworld")
    found = set()
    for path in [*ROOT.glob("*.py"), *(path for room in rooms for path in (ROOT / room).rglob("*.py"))]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("Image.open", "PIL.Image.open"):
                found.add((str(path.relative_to(ROOT)), any(k.arg == "formats" for k in node.keywords)))
    assert found == {("cache_builder/base/untrusted/image_files.py", True)}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jpg")
    assert reason(tmp_path / "a.jpg") == "is not a file"


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null", "/dev/tty"])
def test_a_device_is_refused_without_reading_it(tmp_path: Path, device: str) -> None:
    if not Path(device).exists():
        pytest.skip(f"there is no {device}")
    (tmp_path / "a.jpg").symlink_to(device)
    assert reason(tmp_path / "a.jpg") == "is not a file"


def refuse(number: int):
    """An `open` that fails as the operating system would."""

    def refused(path: Path, *arguments: object, **options: object) -> None:
        raise OSError(number, os.strerror(number), str(path))

    return refused


@pytest.mark.parametrize("number", [errno.EACCES, errno.EMFILE, errno.ENFILE])
def test_a_refusal_of_the_system_is_never_called_damage(
    tmp_path: Path, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    path = save(tmp_path, "a.png", Image.fromarray(pixels))
    monkeypatch.setattr("builtins.open", refuse(number))
    assert reason(path) == f"cannot be opened: {os.strerror(number)}"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_photo_that_may_not_be_read(tmp_path: Path, pixels: np.ndarray) -> None:
    path = save(tmp_path, "a.png", Image.fromarray(pixels))
    path.chmod(0)
    assert reason(path) == "cannot be opened: Permission denied"


def test_a_disk_that_fails_and_memory_that_is_short_are_named(
    tmp_path: Path, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path, "a.png", Image.fromarray(pixels))

    def fails(fault: BaseException):
        def decode(image: Image.Image) -> Image.Image:
            raise fault

        return decode

    monkeypatch.setattr(photos, "to_rgb", fails(OSError(errno.EIO, "Input/output error")))
    assert reason(path) == "cannot be read: Input/output error"
    monkeypatch.setattr(photos, "to_rgb", fails(MemoryError()))
    assert reason(path) == "cannot be decoded: no memory is left"
    monkeypatch.setattr(photos, "to_rgb", fails(OSError("image file is truncated")))
    assert reason(path) == "cannot be decoded: image file is truncated"


def test_too_many_open_files_stop_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = open_index(write_photos(tmp_path / "set", photos=2))
    monkeypatch.setattr("builtins.open", refuse(errno.EMFILE))
    for load in (load_row, load_or_reason, lambda index, row: check_photos(index)):
        with pytest.raises(UserError, match=r"000\.png: .*Too many open files; .* fewer --workers"):
            load(index, 0)
    monkeypatch.setattr("builtins.open", refuse(errno.EACCES))
    assert load_or_reason(index, 0) == "000.png cannot be opened: Permission denied"


def test_one_readable_photo_is_enough(tmp_path: Path) -> None:
    index = open_index(write_photos(tmp_path / "set", photos=3))
    for name in ("000.png", "001.png"):
        (index.image_root / name).write_bytes(b"")
    check_photos(index)
    check_photos(index, np.array([0, 2]))
    check_photos(index, np.array([], int))
    with pytest.raises(UserError, match=r"none of the 2 photos .* \(the first: .*000\.png: is empty"):
        check_photos(index, np.array([0, 1]))


def test_a_folder_that_is_gone_or_empty_stops_a_run(tmp_path: Path) -> None:
    index = open_index(write_photos(tmp_path / "set", photos=2))
    kept = tmp_path / "kept"
    index.image_root.rename(kept)
    with pytest.raises(UserError, match=r"the folder of the photos of .*, does not exist; restore it"):
        check_photos(index)
    index.image_root.mkdir()  # a mount point without its disk
    for call in (check_folder, check_photos, lambda index: load_or_reason(index, 0)):
        with pytest.raises(UserError, match=r"the folder of the photos of .*, is empty; restore it"):
            call(index)
    index.image_root.rmdir()
    index.image_root.write_text("")
    with pytest.raises(UserError, match=r"is not a folder"):
        check_folder(index)


def test_many_unreadable_photos_are_worth_a_warning() -> None:
    assert unreadable_warning(0, 0) is None
    assert unreadable_warning(1, 10) is None
    assert unreadable_warning(2, 10) == (
        "warning: 2 of 10 photos (20%) cannot be read, so their rows have no value"
    )
