"""Predict on photo and video files, and draw what is found."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from itertools import tee
from pathlib import Path
from typing import Any

from PIL import Image

from cckt.cache_builder.base.disk_faults import explain, require_room
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.progress import Progress, Silent
from cckt.cache_builder.photos import BadPhoto, load_photo
from cckt.cache_builder.vocabulary import Vocabulary
from cckt.detector.drawing.draw import draw_prediction
from cckt.detector.drawing.picture_files import require_own_pictures, save_picture
from cckt.detector.inference.photo_sources import is_video, name_of, video_frames
from cckt.detector.inference.predict import Predictor
from cckt.detector.inference.prediction import Prediction


def predict_files(
    detector: Predictor,
    paths: Sequence[Path],
    vocabulary: Vocabulary,
    *,
    pictures: Path | None = None,
    every: float = 1.0,
    first: int | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> list[Prediction]:
    """Return a prediction for each photo and video frame, in their order.

    pictures: folder for one PNG per readable image, with its detections; None draws nothing. every: seconds
    between two frames of a video. first: number of the first picture, if `paths` are a part of all photos;
    then it is no error that none of them can be read. options: as for `Predictor.stream`. A file that cannot
    be read gives a prediction with a fault, or no frames, and a note. If a picture cannot be written, for
    example because the disk is full, a note gives the reason and no further ones are drawn; the predictions
    are complete. Raises
    UserError if no file can be read, and before the work if `pictures` cannot be written.
    """
    progress, found = progress or Silent(), []
    if pictures is not None:
        require_room(pictures)
        require_own_pictures(pictures)
    progress.start("predict", len(paths), "photos")
    inputs, shown = tee(_images(paths, every, pictures is not None, progress))
    stream = detector.stream(inputs, vocabulary, strict=False, **options)
    for number, (image, prediction) in enumerate(zip(shown, stream, strict=True), first or 1):
        if prediction.fault:
            progress.note(prediction.fault)
        elif pictures is not None and not isinstance(image, Path):
            path = pictures / f"{number:05d}-{name_of(prediction.source)}.png"
            try:
                save_picture(draw_prediction(image, prediction), path)
            except OSError as error:
                reason = explain(error, path) or error
                progress.note(f"no more pictures are drawn, the predictions are kept: {reason}")
                pictures = None
        found.append(prediction)
        progress.advance()
    progress.finish()
    if first is not None:
        return found
    if not found:
        raise UserError(f"{paths[0]}: no frame could be read; give another --every or other videos.")
    if all(prediction.fault for prediction in found):
        raise UserError(f"{found[0].fault}; none of the {len(found)} photos could be read, give others.")
    return found


def _images(
    paths: Sequence[Path], every: float, opened: bool, progress: Progress
) -> Iterator[Path | Image.Image]:
    """Yield the frames of videos, and photos as paths.

    opened: yield photos as images, so that one decoding serves the detector and the drawing. A photo that
    cannot be read stays a path: the detector reports why.
    """
    for path in paths:
        if is_video(path):
            try:
                yield from video_frames(path, every)
            except UserError as fault:  # this video only: `check_video` found that videos can be read
                progress.note(str(fault))
            continue
        photo: Path | Image.Image = path
        if opened:
            with contextlib.suppress(BadPhoto, ValueError, OSError):
                photo = load_photo(path)
                vars(photo)["filename"] = str(path)
        yield photo
