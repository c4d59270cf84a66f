"""Find input images: files, folders, patterns, a list on stdin, frames of a video."""

from __future__ import annotations

import glob
import importlib
import importlib.util
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO

from PIL import Image

from cckt.cache_builder.base.errors import UserError, counted
from cckt.cache_builder.base.ownership import text_mark
from cckt.cache_builder.base.untrusted.image_files import SUFFIXES
from cckt.cache_builder.base.untrusted.regular_files import walk_files

PHOTO_SUFFIXES = frozenset(SUFFIXES)
PICTURE = re.compile(r"[0-9]{5}-.*\.(png|jpg)")
"""Names of the pictures and crops of `cckt predict`: number and name of the photo."""
CARD = "predict.json"
"""File of a results folder that holds the settings of the results."""
MARK = "cckt predict"
"""Mark of our pictures: the "Software" entry of a PNG file, the comment of a JPEG file."""
MOST_ERRORS = 1 << 16
"""Bytes of the messages of ffmpeg that are read."""
VIDEO_SUFFIXES = {".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v", ".mpg", ".mpeg"}


def find_photos(
    places: Sequence[str | Path],
    listed: Iterable[str] = (),
    recursive: bool = False,
    results: Path | None = None,
) -> list[Path]:
    """Return paths of photos and videos, each once.

    places: files; folders and patterns ("shots/**/*.jpg"), whose photos and videos are sorted by name; "-"
    for the lines of `listed` (stdin). recursive: also look into the subfolders of folders. results: the
    folder of results; where it is a folder of photos too, or inside one, what a command wrote there is left
    out. Raises UserError for a place that does not exist or has no photo.
    """
    found: list[Path] = []
    for place in map(str, places):
        if place == "-":
            names = [line.strip() for line in listed]
            inside = [Path(name) for name in names if name]
        elif Path(place).is_dir():
            inside = sorted(_in_folder(Path(place), recursive, results))
            if not inside and not recursive and any(path.is_dir() for path in Path(place).iterdir()):
                below = len(_in_folder(Path(place), True, results))
                found_below = f"only folders with {counted(below, 'photo')}" if below else "only folders"
                raise UserError(
                    f"{place}: found no photo, {found_below}, expected photos; "
                    + ("add --recursive to include them." if below else "give photos that exist.")
                )
        elif Path(place).exists():
            inside = [Path(place)]
        elif glob.has_magic(place):
            every = map(Path, sorted(glob.glob(place, recursive=True)))
            inside = [path for path in every if _is_shown(path)]
        else:
            inside = []
        if not inside:
            raise UserError(
                "the list on stdin is empty, expected one path per line; give photos that exist."
                if place == "-"
                else f"{place}: found no photo, expected a photo, or a folder or pattern that holds some; "
                "give photos that exist."
            )
        found += inside
    return list(dict.fromkeys(found))


def photos_below(places: Sequence[str | Path], results: Path | None = None) -> list[str]:
    """Return a sentence for each folder of `places` with photos in subfolders, which `find_photos` leaves
    out."""
    notes = []
    for place in (Path(place) for place in places if place != "-" and Path(place).is_dir()):
        below = len(_in_folder(place, True, results)) - len(_in_folder(place, False, results))
        if below:
            more = counted(below, "more photo is", "more photos are")
            notes.append(f"{place}: {more} in subfolders; add --recursive to include them")
    return notes


def _in_folder(folder: Path, recursive: bool, results: Path | None) -> list[Path]:
    """Return the photos and videos of a folder, without hidden files and folders and without our results."""
    found: list[Path] = []
    hidden = set() if results is None else {results.resolve()}
    both = results is not None and folder.resolve() in hidden
    if both and (folder / CARD).is_file():
        hidden |= {folder.resolve() / name for name in ("crops", "frames", "images")}

    def enter(place: Path) -> bool:
        return recursive and not place.name.startswith(".") and not (hidden and place.resolve() in hidden)

    for place, files in walk_files(folder, enter):
        paths = [path for file in files if _is_shown(path := place / file) and path.is_file()]
        if both and place == folder:
            paths = [path for path in paths if not PICTURE.fullmatch(path.name) or not is_our_picture(path)]
        found += paths
    return found


def _is_shown(path: Path) -> bool:
    return path.suffix.lower() in PHOTO_SUFFIXES | VIDEO_SUFFIXES and not path.name.startswith(".")


is_our_picture = text_mark(f"Software\0{MARK}", MARK)
"""Return whether `cckt predict` drew a picture or cut a crop."""


def name_of(source: str | Path) -> str:
    """Return the name for files about a photo: its file name without suffix, or the full name of a frame."""
    path = Path(source)
    return path.stem if path.suffix.lower() in PHOTO_SUFFIXES else path.name


def is_video(path: Path) -> bool:
    """Whether the suffix is one of a video."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def video_frames(path: Path, every: float = 1.0) -> Iterator[Image.Image]:
    """Yield RGB frames, one per `every` seconds, with file and time as filename: "clip.mp4@12.00s".

    A frame is the first one from its time on. Frames are decoded on demand, by the ffmpeg on the path or the
    one of the package imageio-ffmpeg. Raises UserError if there is no ffmpeg, if it cannot read the file,
    and, after the frames before, if it stops within the file.
    """
    check_video(path, every)
    program = ffmpeg_program()
    if not path.is_file():
        raise UserError(f"{path}: no such video; give one that exists.")
    # A video may be a list of other files: only files are read. "file:" because a name such as concat:a is
    # taken for another protocol.
    command = [program, "-nostdin", "-loglevel", "error", "-protocol_whitelist", "file"]
    command += [
        "-i",
        f"file:{path}",
        "-vf",
        f"fps=1/{every:g}:round=up",
        "-f",
        "image2pipe",
        "-c:v",
        "ppm",
        "-",
    ]
    with (
        tempfile.TemporaryFile() as errors,  # no pipe: ffmpeg would wait where nobody reads from it
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors) as process,
    ):
        assert process.stdout is not None
        number = 0
        try:
            while (frame := _next_ppm(process.stdout)) is not None:
                # Pillow uses the same attribute; a prediction takes its source from it.
                vars(frame)["filename"] = f"{path}@{number * every:.2f}s"
                yield frame
                number += 1
        finally:
            process.stdout.close()
            code = process.wait()
            errors.seek(0)
            fault = errors.read(MOST_ERRORS).decode(errors="replace").strip()
    if code:
        reason = fault.splitlines()[-1] if fault else f"exit code {code}"
        if number:
            raise UserError(
                f"{path}: ffmpeg stopped after {counted(number, 'frame')}, before the end ({reason}); give a "
                "video that ffmpeg can decode, or use these frames."
            )
        raise UserError(f"{path}: ffmpeg cannot read it ({reason}); give a video that ffmpeg can decode.")


def check_every(every: float) -> None:
    """Raise UserError unless `every` is a number of seconds from 1e-6 to 1e6."""
    if not 1e-6 <= every <= 1e6:
        raise UserError(
            f"--every {every:g}: expected seconds above 0 (at most 1e6) between two frames, such as 1."
        )


def check_video(path: Path, every: float) -> None:
    """Raise UserError if there is no ffmpeg, or for an `every` as `check_every`."""
    check_every(every)
    if _ffmpeg() is None:
        raise UserError(
            f"{path} is a video, and ffmpeg, which reads it, is not installed; install it, or run pip "
            "install 'cckt[video]'."
        )


def ffmpeg_program() -> str:
    """Return the program that reads and writes videos; `check_video` has found it."""
    program = _ffmpeg()
    assert program is not None, "check_video: expected an ffmpeg, found None"
    return program


def _ffmpeg() -> str | None:
    """Return the ffmpeg on the path, else the one of imageio-ffmpeg, else None."""
    on_path = shutil.which("ffmpeg")
    if on_path is not None or importlib.util.find_spec("imageio_ffmpeg") is None:
        return on_path
    try:
        return str(importlib.import_module("imageio_ffmpeg").get_ffmpeg_exe())
    except RuntimeError:  # this platform's wheel has no ffmpeg
        return None


def _next_ppm(stream: IO[bytes]) -> Image.Image | None:
    """Return the next binary PPM image of a stream, None at its end."""
    fields: list[bytes] = []
    word = b""
    while len(fields) < 4:  # P6, width, height, 255, each followed by one whitespace byte
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
