"""Run a model over the images of an index, for several variants of priors and scoring in one pass.

Every image passes the encoder once, and the decoder once per set of priors.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor

from cckt.cache_builder.base.boxes import xywh_of
from cckt.cache_builder.base.errors import UserError, counted
from cckt.cache_builder.base.progress import Progress, Silent
from cckt.cache_builder.index import Index
from cckt.cache_builder.photos import BadPhoto, load_photo
from cckt.cache_builder.presence import Rows
from cckt.detector.config.config import InferenceConfig, PriorConfig
from cckt.detector.evaluation.detections import Detections
from cckt.detector.evaluation.evaluation_set import EvaluationSet
from cckt.detector.inference.confirm import Confirmation, CropsOfBatch, confirmed_scores
from cckt.detector.inference.inference_model import InferenceModel
from cckt.detector.inference.postprocess import best_per_object, configured_scores, top_detections
from cckt.detector.ranks.world import World
from cckt.detector.students.contract import StudentOutput

BATCHES_AHEAD = 2
"""Batches of images that threads read in advance."""


class Abandoned(Exception):
    """Inference was stopped before its end, because `stop` returned True."""


@dataclass(frozen=True)
class Request:
    """Concepts that a user names, and the rivals that compete with them, as rows of a vocabulary."""

    words: tuple[int, ...]
    rivals: tuple[int, ...]


@dataclass(frozen=True)
class Variant:
    """One setting of priors and scoring.

    All variants share one pass of the encoder; those with equal priors also share the decoder.
    """

    name: str
    prior: PriorConfig
    inference: InferenceConfig
    requested: Request | None = None
    """Detect these concepts only, as `cckt predict` does; None detects all, as the protocols score them."""


@dataclass(frozen=True)
class InferenceResult:
    """The detections of each variant, by its name.

    faults: one line for each unreadable image; it has no detections. photos: images that were read; seconds:
    duration of the whole loop, including reading.
    """

    detections: dict[str, Detections]
    faults: tuple[str, ...]
    photos: int
    seconds: float

    @property
    def images_per_second(self) -> float:
        """Images per second, over all variants."""
        return self.photos / max(self.seconds, 1e-9)


def infer(
    model: InferenceModel,
    dataset: EvaluationSet,
    variants: Sequence[Variant],
    *,
    share: tuple[int, int] = (0, 1),
    stop: Callable[[], bool] = bool,
    confirm: Confirmation | None = None,
    progress: Progress | None = None,
) -> InferenceResult:
    """Detect on every image of a data set. The batch is `inference.batch` of the first variant.

    confirm: the teacher that scores the best boxes (`confirmed_scores`), for all variants; None for none.
    share: (r, n) takes every n-th batch, starting with the r-th; the content of batches, and so the
    detections of an image, do not depend on n. stop: called after every batch; `Abandoned` is raised when it
    returns True. Raises UserError if a column of priors is missing, and if a variant restricts detections to
    present concepts but has no priors.
    """
    progress = progress or Silent()
    names = [variant.name for variant in variants]
    assert len(set(names)) == len(names) > 0, f"expected variants with different names, found {names}"
    groups = _by_prior(model, dataset, variants)
    text = dataset.text.to(model.device)
    parts: dict[str, list[Detections]] = {variant.name: [] for variant in variants}
    faults: list[str] = []
    batches = _batches(dataset.index, variants[0].inference.batch)[share[0] :: share[1]]
    photos, begin = sum(map(len, batches)), time.perf_counter()
    progress.start("detect", photos, "photos")
    for read in _read(model, dataset.index, batches):
        for fault in (one.fault for one in read if one.fault):
            faults.append(fault)
            progress.note(fault)
        good = [(one.row, one.view) for one in read if one.view is not None]
        photos_read = [one.photo for one in read if one.photo is not None]
        rows = np.array([row for row, _ in good], np.int64)
        encoded = model.encode([view for _, view in good]) if good else None
        for present, priors, group in groups if encoded is not None else ():
            assert encoded is not None, "expected an encoded batch"
            chosen = None if present is None else [present[row] for row in rows]
            output = model.decode(encoded, text, chosen if model.guided else None)
            crops = CropsOfBatch(confirm, photos_read, output.boxes[-1]) if confirm else None
            for variant in group:
                parts[variant.name] += _detections(
                    output, text, model, variant, dataset, rows, chosen, priors, crops
                )
        progress.advance(len(read))
        if stop():
            raise Abandoned
    progress.finish()
    joined = {name: Detections.join(found).by_image() for name, found in parts.items()}
    found_all = InferenceResult(joined, tuple(faults), photos - len(faults), time.perf_counter() - begin)
    return found_all if share[1] > 1 else _with_photos(found_all)


def _with_photos(found: InferenceResult) -> InferenceResult:
    """Return the result. Raises UserError if photos were named and none could be read: a disk is missing."""
    if found.faults and not found.photos:
        raise UserError(
            f"{found.faults[0]}; none of the {counted(len(found.faults), 'photo')} could be read, expected "
            "the photos "
            "of the data set; mount their disk or correct their folder, then run the same command again."
        )
    return found


def infer_on_ranks(
    model: InferenceModel,
    dataset: EvaluationSet,
    variants: Sequence[Variant],
    world: World,
    *,
    stop: Callable[[], bool] = bool,
    confirm: Confirmation | None = None,
    progress: Progress | None = None,
) -> InferenceResult | None:
    """Run `infer` with the images shared by the ranks; return all detections on rank 0, None on the others.

    Raises on rank 0 the UserError of any rank, and `Abandoned` if any rank was stopped.
    """
    if world.size == 1:
        return infer(model, dataset, variants, stop=stop, confirm=confirm, progress=progress)
    own: InferenceResult | UserError | Abandoned
    share = (world.rank, world.size)
    try:
        own = infer(model, dataset, variants, share=share, stop=stop, confirm=confirm, progress=progress)
    except (UserError, Abandoned) as error:
        own = error  # gathered like a result, because the other ranks wait for this one
    parts = world.gather(own)
    if parts is None:
        return None
    whole = []
    for part in parts:
        if not isinstance(part, InferenceResult):
            raise part
        whole.append(part)
    detections = {
        variant.name: Detections.join([part.detections[variant.name] for part in whole]).by_image()
        for variant in variants
    }
    return _with_photos(
        InferenceResult(
            detections,
            tuple(fault for part in whole for fault in part.faults),
            sum(part.photos for part in whole),
            max(part.seconds for part in whole),
        )
    )


def _by_prior(
    model: InferenceModel, dataset: EvaluationSet, variants: Sequence[Variant]
) -> list[tuple[list[Rows] | None, npt.NDArray[np.float32] | None, list[Variant]]]:
    """Return (present concepts, (I, C) priors or None, variants) for each set of priors."""
    groups: dict[PriorConfig, list[Variant]] = {}
    for variant in variants:
        restricted = variant.inference.restrict_to_present
        if restricted and variant.prior.source == "none":
            raise UserError(
                "option inference.restrict_to_present: found true with prior.source none, expected priors "
                "that rule concepts out; give --priors clip, mllm, oracle or corrupted."
            )
        # Without guidance the output does not depend on the priors, so their column need not exist.
        unused = not model.guided and not restricted and not variant.inference.prior_weight
        groups.setdefault(PriorConfig(source="none") if unused else variant.prior, []).append(variant)
    weighted = {prior for prior, group in groups.items() if any(v.inference.prior_weight for v in group)}
    return [
        (
            dataset.present_concepts(prior),
            dataset.prior_probabilities(prior) if prior in weighted else None,
            group,
        )
        for prior, group in groups.items()
    ]


def _batches(index: Index, size: int) -> list[list[int]]:
    """Return image rows in batches of similar aspect ratio, which need less padding."""
    order = np.lexsort((index.widths, np.round(index.widths / index.heights, 2)))
    return [order[at : at + size].tolist() for at in range(0, len(order), size)]


@dataclass(frozen=True)
class _Read:
    """A photo of an image row: (3, h, w) uint8 and the RGB image, or the reason if it is unreadable."""

    row: int
    view: Tensor | None = None
    photo: Image.Image | None = None
    fault: str = ""


def _read(model: InferenceModel, index: Index, batches: Sequence[list[int]]) -> Iterator[list[_Read]]:
    """Yield each batch; threads read ahead."""

    def read(row: int) -> _Read:
        try:
            size = (int(index.widths[row]), int(index.heights[row]))
            photo = load_photo(index.photo_path(row), size, exif=index.exif)
        except BadPhoto as fault:
            return _Read(row, fault=str(fault))
        return _Read(row, model.preprocess(photo), photo)

    with ThreadPoolExecutor(max(1, model.config.data.workers)) as pool:
        coming = iter(batches)
        ahead = [[pool.submit(read, row) for row in rows] for rows in islice(coming, BATCHES_AHEAD)]
        while ahead:
            ready = ahead.pop(0)
            yield [future.result() for future in ready]
            ahead += [[pool.submit(read, row) for row in rows] for rows in islice(coming, 1)]


def _detections(
    output: StudentOutput,
    text: Tensor,
    model: InferenceModel,
    variant: Variant,
    dataset: EvaluationSet,
    rows: Rows,
    present: list[Rows] | None,
    priors: npt.NDArray[np.float32] | None,
    crops: CropsOfBatch | None,
) -> list[Detections]:
    """Return the detections of each image of a batch. rows: (B,) its image rows; priors: (I, C)."""
    inference, index = variant.inference, dataset.index
    batch_priors = None if priors is None else priors[rows]
    sizes = [(int(index.heights[row]), int(index.widths[row])) for row in rows]
    ids, tau, detections = dataset.vocabulary.category_ids, model.config.model.tau, []
    if variant.requested is None:
        scores = configured_scores(inference, output, text, tau, present, batch_priors, dataset.base)
        scores = scores if crops is None else confirmed_scores(scores, text, crops)
        best = top_detections(scores, output.boxes[-1], sizes, inference.top, inference.nms)
    else:
        words, columns = (
            variant.requested.words,
            np.array([*variant.requested.words, *variant.requested.rivals], np.int64),
        )
        places = np.full(len(ids), -1, np.int64)
        places[columns] = np.arange(len(columns))
        if present is not None:
            present = [places[one][places[one] >= 0] for one in present]
        if output.logits.shape[-1] == len(ids):
            output = replace(output, logits=output.logits[..., columns])
        batch_priors = None if batch_priors is None else batch_priors[:, columns]
        base = dataset.base[columns]
        scores = configured_scores(inference, output, text[columns], tau, present, batch_priors, base)
        scores = scores if crops is None else confirmed_scores(scores, text[columns], crops)
        best = best_per_object(scores, output.boxes[-1], sizes, inference.top, len(words), inference.nms)
        ids = ids[columns]
    for row, found in zip(rows, best, strict=True):
        # Score 0 is a concept that restrict_to_present dropped. NaN is kept, for `Detections` to refuse.
        kept = (~(found.scores <= 0)).cpu().numpy()
        boxes = found.boxes_xyxy.double().cpu().numpy()[kept]
        detections.append(
            Detections(
                np.full(len(boxes), index.image_ids[row]),
                ids[found.concepts.cpu().numpy()[kept]],
                found.scores.double().cpu().numpy()[kept],
                xywh_of(boxes),
                f"the detections on {index.folder}",
            )
        )
    return detections
