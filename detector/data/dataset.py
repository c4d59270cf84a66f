"""Training data: photos with their base objects and the teacher's embeddings, read from index and columns.

A sample is named by a `Place`: (epoch, position in the epoch, image row). All that is random about it follows
from the seed and that place, never from a worker's or a global generator: how many workers read, and where a
run was interrupted, changes nothing. Crowds are no targets; their pixels stay.

The dataset crosses process borders as paths: a worker maps the same column files, it copies none.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
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
from cckt.detector.config.config import Config, TrainConfig
from cckt.detector.data.batch import Batch, Sample, collate
from cckt.detector.data.gpu_decode import Decoder, decode_all, gpu_decoder, jpeg_bytes
from cckt.detector.data.schedule import SAMPLE, TEACHER, Place, Schedule, generator
from cckt.detector.data.teacher_crops import CropViews
from cckt.detector.data.training_priors import TrainingPriors
from cckt.detector.data.transforms import apply_to_boxes, apply_to_image, draw_view
from cckt.detector.students.contract import Targets
from cckt.detector.students.deformable_detr.guidance import disturb_present


class TrainingPhotos(Dataset[Sample]):
    """The photos of a base-only index with their targets, one sample for each `Place`.

    data: data-set folder with an index and a finished crops column of it; without a contrastive loss
    (loss.loss_contrast = 0) no crops are read and every embedding is invalid, `width` wide.
    """

    def __init__(self, data: Path, config: Config, width: int) -> None:
        self.folder, self.config, self.width = data, config, width
        self.index: Index = open_index(data)
        self.crops: CropViews | None = None
        if config.loss.loss_contrast > 0:
            self.crops = CropViews(data, self.index.digest, config.data)
        self.base_rows = self.index.concepts.rows("base")
        self.base_of = self.index.concepts.places(self.base_rows)
        self.priors: TrainingPriors | None = None
        if config.heeds_priors:
            self.priors = TrainingPriors(data, self.index, config.prior, config.data.teacher)
        self._pixels: dict[int, Tensor] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return TrainingPhotos, (self.folder, self.config, self.width)

    def __len__(self) -> int:
        return len(self.index.image_ids)

    @property
    def decoded_bytes(self) -> int:
        """Bytes of all photos as RGB."""
        return int((self.index.widths.astype(np.int64) * self.index.heights).sum()) * 3

    @cached_property
    def fits_in_memory(self) -> bool:
        """Whether `data.cache_photos` MiB hold all photos."""
        return self.decoded_bytes <= self.config.data.cache_photos * 2**20

    def read(self, row: int) -> tuple[Tensor, str]:
        """Pixels (3, H, W) uint8 of a photo, and why they could not be read ("" if they could).

        Kept in memory after the first time where all fit; then the pixels must not be written to.
        """
        if row in self._pixels:
            return self._pixels[row], ""
        width, height = int(self.index.widths[row]), int(self.index.heights[row])
        try:
            photo = load_photo(self.index.photo_path(row), (width, height))
        except BadPhoto as fault:
            return torch.zeros(3, height, width, dtype=torch.uint8), str(fault)
        pixels = torch.from_numpy(np.array(photo)).permute(2, 0, 1).contiguous()
        if self.fits_in_memory:
            self._pixels[row] = pixels
        return pixels, ""

    def __getitem__(self, place: Place) -> Sample:
        file = self._file(place.image)
        image, fault = (file, "") if file is not None else self.read(place.image)
        rng = generator(self.config.train.seed, SAMPLE, place.epoch, place.position)
        height, width = int(self.index.heights[place.image]), int(self.index.widths[place.image])
        view = draw_view(height, width, self.config.data, rng)
        objects = np.arange(0) if fault else self._objects(place.image)
        boxes = torch.from_numpy(self.index.box_xyxy[objects])
        seen, kept = apply_to_boxes(boxes, height, width, view)
        objects = objects[kept.numpy()]
        concepts = self.base_of[self.index.box_concepts[objects]]
        assert (concepts >= 0).all(), f"image row {place.image} has a target that is not base"
        targets = Targets(
            seen,
            torch.from_numpy(concepts),
            *self._embeddings(objects, view.flip, place),
        )
        given = np.unique(concepts)
        if self.priors is not None and rng.random() < self.config.train.guidance_priors:
            given = self.priors.of(place.image)
        present = draw_guidance(given, len(self.base_rows), self.config.train, rng)
        words = torch.from_numpy(present)
        if file is not None:
            return Sample(file, targets, words, place.image, fault, view)
        return Sample(apply_to_image(image, view), targets, words, place.image, fault)

    def _file(self, row: int) -> Tensor | None:
        """The encoded photo, where a GPU is to decode it and can."""
        if self.config.data.decode == "cpu" or self.fits_in_memory:
            return None
        return jpeg_bytes(
            self.index.photo_path(row), (int(self.index.widths[row]), int(self.index.heights[row]))
        )

    def _objects(self, row: int) -> NDArray[np.int64]:
        boxes = self.index.boxes_of(row)
        rows: NDArray[np.int64] = boxes.start + np.flatnonzero(~self.index.iscrowd[boxes])
        return rows

    def _embeddings(self, objects: NDArray[np.int64], flip: bool, place: Place) -> tuple[Tensor, Tensor]:
        """(M, D) float32 and (M,) bool of box rows."""
        if self.crops is None:
            return torch.zeros(len(objects), self.width), torch.zeros(len(objects), dtype=torch.bool)
        rng = generator(self.config.train.seed, TEACHER, place.epoch, place.position)
        return self.crops.take(objects, flip, rng)


def draw_guidance(
    concepts: NDArray[np.int64], n_concepts: int, config: TrainConfig, rng: np.random.Generator
) -> NDArray[np.int64]:
    """The concepts to guide a training photo with, in the order the queries are dealt.

    concepts: base rows annotated in the view (ascending), or said to be there by the priors: just these are
    given (METHOD.md section 4) unless the config asks for noise.
    """
    given = disturb_present(
        concepts, n_concepts, config.guidance_drop, config.guidance_add, config.guidance_none, rng
    )
    return np.sort(given) if config.guidance_order == "row" else given


def decoded(samples: Sequence[Sample], decode: Decoder, width: int) -> list[Sample]:
    """Samples as workers on a CPU would have made them, those that are still files decoded by `decode`.

    A file that nobody can decode becomes a black photo without objects; width: of the teacher's embeddings.
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
                sample = Sample(black, Targets.empty(width), sample.present[:0], sample.row, fault)
            else:
                sample = replace(sample, image=apply_to_image(plane, view), view=None)
        done.append(sample)
    places = {sample.image.device for sample in done}
    if len(places) > 1:  # some came the usual way: all to the GPU
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
    """The micro-batches of a schedule, read ahead by `data.workers` processes that live through the run.

    Photos that fit in memory are read in this process instead. ahead: it then makes a batch in a thread while
    the one before is used, which pays where that is on a GPU. start: how workers start ("fork", "spawn";
    None: the platform's way).
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
        worker_init_fn=_outlive_the_first_sigterm,
        generator=torch.Generator(),
    )
    if decode is not None:
        return (collate(decoded(samples, decode, photos.width)) for samples in loader)
    return _one_ahead(iter(loader)) if ahead and not workers else iter(loader)


def _one_ahead(source: Iterator[Batch]) -> Iterator[Batch]:
    """The same batches, each begun in a thread before the one before it is used up."""
    with ThreadPoolExecutor(1, "batches") as thread:
        coming = thread.submit(next, source, None)
        while (batch := coming.result()) is not None:
            coming = thread.submit(next, source, None)
            yield batch


def _outlive_the_first_sigterm(worker: int) -> None:
    """A launcher or scheduler signals all processes of a run; the trainer then still needs its workers, for
    the step in hand. The second one, such as the loader's own when it ends them, is heeded.
    """
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))
