"""What `cckt predict` writes about each image besides labels: pictures, frames, crops, annotated videos."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from cckt.cache_builder.base.atomic_files import short_name, temporary_of
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.ownership import require_ours_or_absent
from cckt.detector.drawing.draw import draw_marks, draw_prediction, marks_of
from cckt.detector.drawing.picture_files import CROP, FRAME, require_own_pictures, save_picture
from cckt.detector.inference.photo_sources import MARK, PHOTO_SUFFIXES, ffmpeg_program, name_of
from cckt.detector.inference.prediction import Prediction

MARK_BYTES = 1024
"""Bytes at the end of a video in which its comment is."""


@dataclass
class Products:
    """Folders to write, None for nothing; `write` runs in several threads at once.

    pictures: images with their detections. frames: video frames without drawings, as JPEG files, which the
    labels then refer to. crops: one JPEG file per detection, in a folder per concept. videos: folder for each
    video with its detections drawn, `rate` frames per second.
    """

    pictures: Path | None = None
    frames: Path | None = None
    crops: Path | None = None
    videos: Path | None = None
    rate: float = 1.0
    _video: _Video | None = None

    @property
    def wanted(self) -> bool:
        """Whether anything is written."""
        return any((self.pictures, self.frames, self.crops, self.videos))

    def require_own(self, videos: Sequence[Path]) -> None:
        """Raise UserError if a file that may be written exists and is not ours, or would be written twice.

        videos: of the input. Call it before the work.
        """
        if self.pictures is not None:
            require_own_pictures(self.pictures)
        if self.frames is not None and videos:
            require_own_pictures(self.frames, FRAME)
        if self.crops is not None and self.crops.is_dir():
            for folder in sorted(path for path in self.crops.iterdir() if path.is_dir()):
                require_own_pictures(folder, CROP)
        if self.videos is None:
            return
        names = [self.videos / _video_name(path) for path in videos]
        for path, count in Counter(names).items():
            if count > 1:
                raise UserError(
                    f"--video: {count} videos would be written as {path.name}, expected different names; "
                    "predict such videos into different folders."
                )
            require_ours_or_absent(path, _is_our_video, "a video of cckt predict")

    def named(self, prediction: Prediction, image: Image.Image) -> Prediction:
        """Return the prediction with the file of its frame as source, if frames are saved."""
        if self.frames is None or not _is_frame(prediction.source):
            return prediction
        return replace(prediction, source=str(self.frames / f"{_name_of(prediction.source)}.jpg"))

    def write(self, number: int, image: Image.Image, prediction: Prediction) -> Image.Image | None:
        """Write everything about one image; return a drawn frame for `add_frame`, None for a photo.

        Raises OSError if a file cannot be written.
        """
        original = str(getattr(image, "filename", prediction.source))
        if self.frames and _is_frame(original):
            save_picture(image, Path(prediction.source), quality=95)
        if self.pictures:
            drawn = draw_prediction(image, prediction)
            save_picture(drawn, picture_path(self.pictures, number, original))
        if self.crops:
            self._save_crops(number, image, prediction)
        if self.videos is None or not _is_frame(original):
            return None
        frame = draw_marks(image, marks_of(prediction), legend=False)
        vars(frame)["filename"] = original
        return frame

    def add_frame(self, frame: Image.Image) -> None:
        """Append a drawn frame to the annotated video. Raises UserError if ffmpeg cannot write it."""
        assert self.videos is not None, "expected a folder of videos, found None"
        width, height = frame.width + frame.width % 2, frame.height + frame.height % 2
        if self._video is None:
            path = video_path(self.videos, str(getattr(frame, "filename", "")))
            self._video = _Video(path, (width, height), self.rate)
        self._video.add(frame)

    def end_of_input(self) -> None:
        """Complete the annotated video of the file whose last frame was added."""
        if self._video is not None:
            self._video.close()
            self._video = None

    def _save_crops(self, number: int, image: Image.Image, prediction: Prediction) -> None:
        assert self.crops is not None, "expected a folder of crops, found None"
        paths = crop_paths(self.crops, number, prediction)
        for path, box in zip(paths, prediction.boxes_xyxy, strict=True):
            left, top = int(box[0]), int(box[1])
            right, bottom = max(left + 1, -int(-box[2] // 1)), max(top + 1, -int(-box[3] // 1))
            crop = image.crop((left, top, min(right, image.width), min(bottom, image.height)))
            save_picture(crop, path, quality=95)


def picture_path(folder: Path, number: int, source: str) -> Path:
    """Return the file of the drawn picture of an image. number: of the image, from 1."""
    return folder / f"{number:05d}-{_name_of(source)}.jpg"


def crop_paths(folder: Path, number: int, prediction: Prediction) -> list[Path]:
    """Return the file of the crop of each detection, in a folder per concept. number: of the image."""
    name = _name_of(prediction.source)
    return [
        folder / _folder_name(concept) / f"{number:05d}-{at:02d}-{score:.2f}-{name}.jpg"
        for at, (concept, score) in enumerate(zip(prediction.names, prediction.scores, strict=True), 1)
    ]


def video_path(folder: Path, source: str) -> Path:
    """Return the annotated video of a frame, "clip.mp4@12.00s" or its file."""
    return folder / _video_name(Path(source.rpartition("@")[0]))


class _Video:
    """An H.264 video that ffmpeg writes from frames of one size; it appears when it is complete."""

    def __init__(self, path: Path, size: tuple[int, int], rate: float) -> None:
        self.path, self._size = path, size
        path.parent.mkdir(parents=True, exist_ok=True)
        self._partial = temporary_of(path)
        command = [ffmpeg_program(), "-nostdin", "-loglevel", "error", "-y", "-f", "rawvideo"]
        command += ["-pix_fmt", "rgb24", "-s", f"{size[0]}x{size[1]}", "-r", f"{rate:g}", "-i", "-"]
        command += ["-an", "-pix_fmt", "yuv420p", "-metadata", f"comment={MARK}"]
        # "file:" because ffmpeg takes a name such as concat:a for another protocol.
        command += ["-f", "mp4", f"file:{self._partial}"]
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115, closed by close()
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=self._errors)

    def add(self, frame: Image.Image) -> None:
        if frame.size != self._size:
            page = Image.new("RGB", self._size)
            page.paste(frame, (0, 0))
            frame = page
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # ffmpeg ended; `close` gives the reason
            self._process.stdin.write(frame.tobytes())

    def close(self) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        code = self._process.wait()
        with self._errors as file:
            file.seek(0)
            reason = file.read().decode(errors="replace").strip().splitlines()[-1:] or [f"exit code {code}"]
        if code:
            with suppress(OSError):
                self._partial.unlink()
            raise UserError(f"{self.path}: ffmpeg cannot write it ({reason[0]}); leave out --video.")
        os.replace(self._partial, self.path)


def _is_frame(source: str) -> bool:
    """Whether a source is a frame of a video, as `video_frames` names it: "clip.mp4@12.00s"."""
    return re.search(r"@[0-9.]+s$", source) is not None and Path(source).suffix not in PHOTO_SUFFIXES


def _video_name(source: Path) -> str:
    return f"{short_name(source.stem)}-detections.mp4"


def _name_of(source: str) -> str:
    """Return the name of an image in the names of our files, see `short_name`."""
    return short_name(name_of(source))


def _is_our_video(path: Path) -> bool:
    """Whether a file ends with the metadata of our videos."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - MARK_BYTES))
            return MARK.encode() in file.read()
    except OSError:
        return False


def _folder_name(name: str) -> str:
    """Return a concept's name as a folder name on any system."""
    return short_name(re.sub(r"[^\w .-]", "_", name).strip(" .")) or "_"
