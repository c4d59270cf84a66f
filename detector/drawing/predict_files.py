"""Predict on photo and video files, and draw what is found."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image

from cckt.cache_builder.base.disk_faults import explain, require_room
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.progress import Progress, Silent
from cckt.cache_builder.photos import BadPhoto, load_photo
from cckt.cache_builder.vocabulary import Vocabulary
from cckt.detector.drawing.products import Products
from cckt.detector.inference.journal import Journal
from cckt.detector.inference.photo_sources import is_video, video_frames
from cckt.detector.inference.predict import Predictor
from cckt.detector.inference.prediction import Prediction

AHEAD = 64
"""Photos that threads decode in advance."""
PENDING = 64
"""Most images that wait for their pictures to be written."""


@dataclass(frozen=True)
class _Item:
    """An image to predict on, or the reason if it is unreadable; without a name, only the end of a video.

    end: it is the last one of its file.
    """

    image: Image.Image | None = None
    name: str = ""
    fault: str = ""
    end: bool = False


def predict_files(
    detector: Predictor,
    paths: Sequence[Path],
    vocabulary: Vocabulary,
    *,
    pictures: Path | None = None,
    products: Products | None = None,
    journal: Journal | None = None,
    load: Callable[[Path], Image.Image] = load_photo,
    every: float = 1.0,
    first: int | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> list[Prediction]:
    """Return a prediction for each photo and video frame, in their order.

    pictures: folder for one picture per readable image, with its detections; None draws nothing. products:
    what else is written, such as crops; it includes the pictures. journal: where the predictions of finished
    files are kept, so that a stopped command continues. load: decodes a photo. every: seconds between two
    frames of a video. first: number of the first picture, if `paths` are a part of all photos; then it is no
    error that none of them can be read. options: as for `Predictor.stream`.

    A file that cannot be read gives a prediction with a fault, or no frames, and a note. If a picture cannot
    be written, for example because the disk is full, a note gives the reason and no further ones are drawn;
    the predictions are complete. Raises UserError if no file can be read, and before the work if `pictures`
    cannot be written.
    """
    progress, products = progress or Silent(), products or Products(pictures)
    if products.pictures is not None:
        require_room(products.pictures)
    products.require_own([path for path in paths if is_video(path)])
    found: list[Prediction] = [] if journal is None else list(journal.found)
    left = list(paths) if journal is None else list(paths[journal.inputs :])
    if len(left) < len(paths):
        progress.note(f"{len(paths) - len(left)} of {len(paths)} files are finished; the rest follows")
    progress.start("predict", len(paths), "photos")
    progress.advance(len(paths) - len(left))
    writing: deque[tuple[_Item, Prediction, Future[Image.Image | None] | None]] = deque()
    broken = False

    def finish(keep: int) -> None:
        nonlocal broken
        while writing and (len(writing) > keep or writing[0][2] is None or writing[0][2].done()):
            item, prediction, work = writing.popleft()
            try:
                frame = None if work is None else work.result()
                if frame is not None:
                    products.add_frame(frame)
            except OSError as error:
                if not broken:
                    reason = explain(error, products.pictures or Path()) or error
                    progress.note(f"no more pictures are drawn, the predictions are kept: {reason}")
                broken = True
            if item.name:
                found.append(prediction)
                if journal is not None:
                    journal.add(prediction)
            if item.end:
                products.end_of_input()
                progress.advance()
                if journal is not None:
                    journal.done()

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        number = len(found) if first is None else first - 1
        try:
            for item, prediction in _predicted(
                detector, _items(left, every, load, pool, progress), vocabulary, options
            ):
                work = None
                if item.fault:
                    number += 1
                    progress.note(item.fault)
                elif item.image is not None:
                    number += 1
                    prediction = products.named(prediction, item.image)
                    if not broken and products.wanted:
                        work = pool.submit(products.write, number, item.image, prediction)
                writing.append((replace(item, image=None), prediction, work))
                finish(PENDING)
        finally:  # a stopped command keeps what it has found
            finish(0)
    progress.finish()
    if first is not None:
        return found
    if not found:
        raise UserError(f"{paths[0]}: no frame could be read; give another --every or other videos.")
    if journal is not None and all(prediction.fault for prediction in found):
        journal.forget()
    return require_readable(found)


def require_readable(found: list[Prediction]) -> list[Prediction]:
    """Return the predictions. Raises UserError if no photo could be read; expects at least one."""
    if all(prediction.fault for prediction in found):
        if len(found) == 1:
            raise UserError(f"{found[0].fault}; give another photo.")
        raise UserError(f"{found[0].fault}; none of the {len(found)} photos could be read, give others.")
    return found


def _predicted(
    detector: Predictor, items: Iterable[_Item], vocabulary: Vocabulary, options: dict[str, Any]
) -> Iterator[tuple[_Item, Prediction]]:
    """Yield every item with its prediction, in order; items without an image have an empty one."""
    waiting: deque[_Item] = deque()

    def images() -> Iterator[Image.Image]:
        for item in items:
            waiting.append(item)
            if item.image is not None:
                yield item.image

    def others() -> Iterator[tuple[_Item, Prediction]]:
        while waiting and waiting[0].image is None:
            item = waiting.popleft()
            yield item, Prediction.empty(vocabulary, (0, 0), item.name, item.fault)

    for prediction in detector.stream(images(), vocabulary, strict=False, **options):
        yield from others()
        yield waiting.popleft(), prediction
    yield from others()


def _items(
    paths: Sequence[Path],
    every: float,
    load: Callable[[Path], Image.Image],
    pool: ThreadPoolExecutor,
    progress: Progress,
) -> Iterator[_Item]:
    """Yield the photos and frames of each file, then its end; threads decode photos in advance."""

    def opened(path: Path) -> _Item:
        try:
            photo = load(path)
        except (BadPhoto, ValueError, OSError) as fault:
            return _Item(name=str(path), fault=str(fault), end=True)
        vars(photo)["filename"] = str(path)
        return _Item(photo, str(path), end=True)

    coming = iter(paths)
    ahead: deque[tuple[Path, Future[_Item] | None]] = deque()

    def look_ahead(count: int) -> None:
        for path in islice(coming, count):
            ahead.append((path, None if is_video(path) else pool.submit(opened, path)))

    look_ahead(AHEAD)
    while ahead:
        path, photo = ahead.popleft()
        if photo is not None:
            yield photo.result()
        else:
            try:
                for frame in video_frames(path, every):
                    yield _Item(frame, str(getattr(frame, "filename", path)))
            except UserError as fault:  # this video only: `check_video` found that videos can be read
                progress.note(str(fault))
            yield _Item(end=True)
        look_ahead(1)
