"""Training data: images with their base objects and teacher rows, read from the index and its columns.

A sample is identified by a `Place`: (epoch, position in the epoch, image row). All its randomness follows
from the seed and that place, never from a worker's or a global generator: neither the number of workers nor
an interruption changes anything. Crowds are no targets; their pixels stay.

The dataset crosses process borders as paths: a worker maps the same column files and copies none.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cckt.cache_builder.index import Index, open_index
from cckt.cache_builder.photos import BadPhoto, load_photo
from cckt.cache_builder.proposals import Proposals, open_proposals
from cckt.detector.config.config import Config, DataConfig
from cckt.detector.data.batch import Batch, Sample, collate
from cckt.detector.data.class_crops import ClassCrops
from cckt.detector.data.gpu_decode import Decoder, decode_all, gpu_decoder, jpeg_bytes
from cckt.detector.data.mosaic import Seen, fitting, joined, others_of, quarters
from cckt.detector.data.presence import draw_guidance
from cckt.detector.data.row_source import SampleView
from cckt.detector.data.schedule import SAMPLE, TEACHER, Place, Schedule, generator
from cckt.detector.data.teacher_rows import open_rows
from cckt.detector.data.training_priors import TrainingPriors
from cckt.detector.data.transforms import View, apply_to_boxes, apply_to_image, draw_view, resized
from cckt.detector.losses.objective import needed_rows
from cckt.detector.students.targets import ProposalBoxes, Targets, TeacherRows

REDRAWN = 8
"""Draws of a view that must show an object before the whole photo is taken."""


def used_images(index: Index, options: DataConfig) -> NDArray[np.int64]:
    """Return the image rows to train on, ascending (`data.drop_empty_photos`)."""
    if not options.drop_empty_photos:
        return np.arange(len(index))
    rows: NDArray[np.int64] = np.unique(index.box_images).astype(np.int64)
    return rows


class TrainingPhotos(Dataset[Sample]):
    """The images of a base-only index with their targets, one sample per `Place`.

    data: data-set folder with an index and finished columns of the teacher rows that the config's terms read.
    """

    def __init__(self, data: Path, config: Config) -> None:
        self.folder, self.config = data, config
        self.index: Index = open_index(data)
        self.image_rows = used_images(self.index, config.data)
        self.rows = open_rows(needed_rows(config), data, self.index, config.data)
        self.proposals: Proposals | None = None
        if config.data.proposals:
            self.proposals = open_proposals(data, self.index, config.data.proposals_name)
        self.base_rows = self.index.concepts.rows("base")
        self.base_of = self.index.concepts.places(self.base_rows)
        self.priors: TrainingPriors | None = None
        if config.trains_on_priors:
            self.priors = TrainingPriors(data, self.index, config.prior, config.data.teacher)
        self._pixels: dict[int, Tensor] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return TrainingPhotos, (self.folder, self.config)

    def __len__(self) -> int:
        return len(self.image_rows)

    @cached_property
    def class_crops(self) -> Callable[[int], tuple[Tensor, Tensor]] | None:
        """Draw one crop of every base class from a seed; None if no term reads crops."""
        crops = self.rows.get("crop")
        return ClassCrops.of(self.index, crops.columns[0]).draw if crops is not None else None

    @property
    def decoded_bytes(self) -> int:
        """Bytes of all images as RGB."""
        return int((self.index.widths.astype(np.int64) * self.index.heights).sum()) * 3

    @cached_property
    def fits_in_memory(self) -> bool:
        """Whether `data.cache_photos` MiB hold all images."""
        return self.decoded_bytes <= self.config.data.cache_photos * 2**20

    def read(self, row: int) -> tuple[Tensor, str]:
        """Return the pixels (3, H, W) uint8 of an image, and why they could not be read ("" if they could).

        If all images fit in memory, the pixels are kept after the first read and must not be modified.
        """
        if row in self._pixels:
            return self._pixels[row], ""
        width, height = int(self.index.widths[row]), int(self.index.heights[row])
        try:
            photo = load_photo(self.index.photo_path(row), (width, height), exif=self.index.exif)
        except BadPhoto as fault:
            return torch.zeros(3, height, width, dtype=torch.uint8), str(fault)
        pixels = torch.from_numpy(np.array(photo)).permute(2, 0, 1).contiguous()
        if self.fits_in_memory:
            self._pixels[row] = pixels
        return pixels, ""

    def __getitem__(self, place: Place) -> Sample:
        seed, options = self.config.train.seed, self.config.data
        rng = generator(seed, SAMPLE, place.epoch, place.position)
        others = others_of(place, self.image_rows, options, seed)
        if len(others):
            seen = self._mosaic(place, others.tolist(), rng)
            return Sample(seen.image, seen.targets, self._guided(seen.given, rng), place.image, seen.fault)
        file = self._file(place.image)
        image, fault = (file, "") if file is not None else self.read(place.image)
        view, targets, given = self._seen(place, bool(fault), rng)
        present = self._guided(given, rng)[: 0 if fault else None]
        if file is not None:
            return Sample(file, targets, present, place.image, fault, view)
        return Sample(apply_to_image(image, view), targets, present, place.image, fault)

    def _mosaic(self, place: Place, others: list[int], rng: np.random.Generator) -> Seen:
        """Return a mosaic of the photo of `place` and others, of the size that a view of the photo has."""
        seed, parts = self.config.train.seed, []
        size = draw_view(*self._size(place.image), self.config.data, rng).size
        for number, (row, quarter) in enumerate(zip([place.image, *others], quarters(size), strict=True)):
            image, fault = self.read(row)
            random = generator(seed, SAMPLE, place.epoch, place.position, number + 1)
            part = Place(place.epoch, place.position, row)
            view, targets, given = self._seen(part, bool(fault), random, number + 1, quarter)
            parts.append(Seen(apply_to_image(image, view), targets, given, fault))
        return joined(parts, size, self.config.data.mean)

    def _guided(self, given: NDArray[np.int64], rng: np.random.Generator) -> Tensor:
        return torch.from_numpy(draw_guidance(given, len(self.base_rows), self.config.guidance, rng))

    def _size(self, row: int) -> tuple[int, int]:
        return int(self.index.heights[row]), int(self.index.widths[row])

    def _seen(
        self,
        place: Place,
        hidden: bool,
        rng: np.random.Generator,
        part: int = 0,
        quarter: tuple[int, int] | None = None,
    ) -> tuple[View, Targets, NDArray[np.int64]]:
        """Return a view of a photo, its targets, and the concepts that may guide it.

        hidden: the photo could not be read. part, quarter: number (from 1) and size of its mosaic's quarter.
        """
        height, width = self._size(place.image)
        objects = np.arange(0) if hidden else self._objects(place.image)
        boxes = torch.from_numpy(self.index.box_xyxy[objects])
        view = draw_view(height, width, self.config.data, rng)
        seen, kept = apply_to_boxes(boxes, height, width, view)
        if self.config.data.emptied_views == "redraw" and len(boxes) and not len(seen):
            view = self._redrawn(boxes, height, width, view, rng)
            seen, kept = apply_to_boxes(boxes, height, width, view)
        if quarter is not None:
            view = fitting(view, quarter)
        objects = objects[kept.numpy()]
        concepts = self.base_of[self.index.box_concepts[objects]]
        assert (concepts >= 0).all(), f"image row {place.image} has a target that is not base"
        proposals, regions = self._proposals(place.image, view, hidden=hidden)
        rows = self._teacher_rows(SampleView(place.image, objects, view.flip, proposals), place, part)
        targets = Targets(seen, torch.from_numpy(concepts), rows, regions)
        given = np.unique(concepts)
        if self.priors is not None and rng.random() < self.config.guidance.priors:
            given = self.priors.of(place.image)
        if hidden:  # nothing of the photo, nor of what is known about it, is learned or told
            return view, targets.without_objects(), given[:0]
        return view, targets, given

    def _redrawn(self, boxes: Tensor, height: int, width: int, first: View, rng: np.random.Generator) -> View:
        """Return a view that shows a box; after REDRAWN draws the whole photo, at the size of the first."""
        for _ in range(REDRAWN):
            view = draw_view(height, width, self.config.data, rng)
            if len(apply_to_boxes(boxes, height, width, view)[0]):
                return view
        return View(None, resized(height, width, min(first.size), self.config.data.max_side), first.flip)

    def _file(self, row: int) -> Tensor | None:
        """Return the encoded file if the GPU is to decode it and can, else None."""
        if self.config.data.decode == "cpu" or self.fits_in_memory:
            return None
        size = (int(self.index.widths[row]), int(self.index.heights[row]))
        return jpeg_bytes(self.index.photo_path(row), size, exif=self.index.exif)

    def _objects(self, row: int) -> NDArray[np.int64]:
        boxes = self.index.boxes_of(row)
        rows: NDArray[np.int64] = boxes.start + np.flatnonzero(~self.index.iscrowd[boxes])
        return rows

    def _proposals(
        self, row: int, view: View, *, hidden: bool
    ) -> tuple[NDArray[np.int64], ProposalBoxes | None]:
        """Return the rows (P,) and boxes of the proposals that a view shows and that pass the size test.

        hidden: the image could not be read, so the view shows none.
        """
        if self.proposals is None:
            return np.arange(0), None
        options, table = self.config.data, self.proposals
        rows = np.arange(0) if hidden else np.arange(table.offsets[row], table.offsets[row + 1])
        if not options.repeated_proposals:
            rows = rows[~table.repeats[rows]]
        height, width = int(self.index.heights[row]), int(self.index.widths[row])
        boxes, kept = apply_to_boxes(torch.from_numpy(table.box_xyxy[rows]), height, width, view)
        sides = boxes[:, 2:] * boxes.new_tensor([view.size[1], view.size[0]])
        large = (sides > options.min_proposal_side).all(1)
        boxes, rows = boxes[large], rows[kept[large].numpy()]
        return rows, ProposalBoxes(boxes, torch.arange(len(boxes)) < options.proposals)

    def _teacher_rows(self, view: SampleView, place: Place, part: int) -> dict[str, TeacherRows]:
        key = (place.epoch, place.position, *([part] if part else []))
        random = generator(self.config.train.seed, TEACHER, *key)
        return {name: source.take(view, random) for name, source in self.rows.items()}


def decoded(samples: Sequence[Sample], decode: Decoder) -> list[Sample]:
    """Return samples as CPU workers would have made them; those that are still files are decoded by `decode`.

    A file that cannot be decoded becomes a black image without objects.
    """
    files = [sample.image for sample in samples if sample.view is not None]
    planes = iter(decode_all(files, decode))
    done = []
    for sample in samples:
        view = sample.view
        if view is not None:
            plane = next(planes)
            if isinstance(plane, str):
                black = torch.zeros(3, *view.size, dtype=torch.uint8)
                fault = f"image row {sample.row} {plane}"
                targets = sample.targets.without_objects()
                sample = Sample(black, targets, sample.present[:0], sample.row, fault)
            else:
                sample = replace(sample, image=apply_to_image(plane, view), view=None)
        done.append(sample)
    places = {sample.image.device for sample in done}
    if len(places) > 1:  # some were decoded on the CPU: move all to the GPU
        there = max(places, key=lambda place: place.type != "cpu")
        done = [replace(sample, image=sample.image.to(there)) for sample in done]
    return done


def batches(
    photos: TrainingPhotos,
    schedule: Schedule,
    *,
    pinned: bool = False,
    ahead: bool = False,
    start: str | None = None,
) -> Iterator[Batch]:
    """Yield the micro-batches of a schedule, prefetched by `data.workers` processes that live as long as the
    run.

    Images that fit in memory are read in this process instead. ahead: then prepare the next batch in a
    thread, which helps if training runs on a GPU. start: start method of the workers ("fork", "spawn"; None:
    the platform's).
    """
    on_gpu = photos.config.data.decode == "cuda" and not photos.fits_in_memory
    decode = gpu_decoder() if on_gpu else None
    workers = 0 if photos.fits_in_memory else photos.config.data.workers
    loader = DataLoader(
        photos,
        batch_sampler=schedule,
        num_workers=workers,
        collate_fn=collate if decode is None else list,
        pin_memory=pinned,
        multiprocessing_context=start if workers else None,
        worker_init_fn=_ignore_first_sigterm,
        generator=torch.Generator(),
    )
    if decode is not None:
        return (collate(decoded(samples, decode)) for samples in loader)
    return _one_ahead(iter(loader)) if ahead and not workers else iter(loader)


def _one_ahead(source: Iterator[Batch]) -> Iterator[Batch]:
    """Yield the same batches, each prepared in a thread while the previous one is in use."""
    with ThreadPoolExecutor(1, "batches") as thread:
        coming = thread.submit(next, source, None)
        while (batch := coming.result()) is not None:
            coming = thread.submit(next, source, None)
            yield batch


def _ignore_first_sigterm(worker: int) -> None:
    """Ignore the first SIGTERM: schedulers signal all processes of a run, and the trainer still needs its
    workers for the current step. The second one, such as the loader's own at the end, terminates the worker.
    """
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))
