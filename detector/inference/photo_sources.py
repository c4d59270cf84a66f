"""Where photos come from: files, folders, patterns, a list on stdin, the frames of a video."""

from __future__ import annotations

import glob
import importlib
import importlib.util
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO

from PIL import Image

from cckt.cache_builder.base.errors import UserError

PHOTO_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
VIDEO_SUFFIXES = {".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v", ".mpg", ".mpeg"}


def find_photos(places: Sequence[str | Path], listed: Iterable[str] = ()) -> list[Path]:
    """Photos and videos by name: files as they are; of folders and patterns ("shots/**/*.jpg") what they
    hold, by name; "-" stands for the lines of `listed` (stdin). Twice the same file counts once.

    Raises UserError for a place that is not there or holds none.
    """
    found: list[Path] = []
    for place in map(str, places):
        if place == "-":
            names = [line.strip() for line in listed]
            inside = [Path(name) for name in names if name]
        elif Path(place).is_dir():
            inside = sorted(path for path in Path(place).iterdir() if _is_shown(path))
        elif Path(place).exists():
            inside = [Path(place)]
        elif glob.has_magic(place):
            inside = [
                Path(path) for path in sorted(glob.glob(place, recursive=True)) if _is_shown(Path(path))
            ]
        else:
            inside = []
        if not inside:
            what = (
                "the list on stdin is empty" if place == "-" else f"{place}: no such photo, nor a folder or"
            )
            rest = "" if place == "-" else " pattern that holds some"
            raise UserError(f"{what}{rest}; give photos that exist.")
        found += inside
    return list(dict.fromkeys(found))


def _is_shown(path: Path) -> bool:
    return path.suffix.lower() in PHOTO_SUFFIXES | VIDEO_SUFFIXES and not path.name.startswith(".")


def name_of(source: str | Path) -> str:
    """What files about a photo are called: its name without the ending; of a video's frame, all of it."""
    path = Path(source)
    return path.stem if path.suffix.lower() in PHOTO_SUFFIXES else path.name


def is_video(path: Path) -> bool:
    """Whether a name is a video's."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def video_frames(path: Path, every: float = 1.0) -> Iterator[Image.Image]:
    """Frames `every` so many seconds as RGB pictures whose filename says file and time: "clip.mp4@12.00s".

    They are decoded as they are asked for, by the ffmpeg on the path or that of the package imageio-ffmpeg.
    Raises UserError where there is none or it cannot read the file.
    """
    check_video(path, every)
    program = _ffmpeg()
    assert program is not None
    if not path.is_file():
        raise UserError(f"{path}: no such video; give one that exists.")
    command = [program, "-nostdin", "-loglevel", "error", "-i", str(path), "-vf", f"fps=1/{every:g}"]
    command += ["-f", "image2pipe", "-c:v", "ppm", "-"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        number = 0
        try:
            while (frame := _next_ppm(process.stdout)) is not None:
                # As Pillow itself names what it opens; a prediction takes its source from it.
                vars(frame)["filename"] = f"{path}@{number * every:.2f}s"
                yield frame
                number += 1
        finally:
            process.stdout.close()
            fault = process.stderr.read().decode(errors="replace").strip()
            code = process.wait()
        if code and not number:
            raise UserError(f"{path}: ffmpeg cannot read it ({fault.splitlines()[-1] if fault else code}).")


def check_video(path: Path, every: float) -> None:
    """Whether videos can be read at all. Raises UserError without ffmpeg, and where `every` is no time."""
    if not every > 0:
        raise UserError(f"--every {every:g}: expected seconds above 0 between two frames.")
    if _ffmpeg() is None:
        raise UserError(
            f"{path} is a video, and ffmpeg, which reads it, is not installed; install it, or run pip "
            "install 'cckt[video]'."
        )


def _ffmpeg() -> str | None:
    """The program: on the path, else the one that a wheel brings."""
    on_path = shutil.which("ffmpeg")
    if on_path is not None or importlib.util.find_spec("imageio_ffmpeg") is None:
        return on_path
    try:
        return str(importlib.import_module("imageio_ffmpeg").get_ffmpeg_exe())
    except RuntimeError:  # the wheel of this platform brings none
        return None


def _next_ppm(stream: IO[bytes]) -> Image.Image | None:
    """The next binary PPM of a stream, None at its end."""
    fields: list[bytes] = []
    word = b""
    while len(fields) < 4:  # P6, width, height, 255, each ended by one white byte
        byte = stream.read(1)
        if not byte:
            return None
        if byte.isspace():
            fields += [word] if word else []
            word = b""
        else:
            word += byte
    width, height = int(fields[1]), int(fields[2])
    pixels = stream.read(3 * width * height)
    if len(pixels) < 3 * width * height:
        return None
    return Image.frombytes("RGB", (width, height), pixels)
