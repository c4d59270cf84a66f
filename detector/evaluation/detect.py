"""Photos once through the encoder, through the decoder for each set of priors, scored in several ways."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
import numpy.typing as npt
from torch import Tensor

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.progress import Progress, Silent
from cckt.cache_builder.index import Index
from cckt.cache_builder.photos import BadPhoto, load_photo
from cckt.cache_builder.presence import Rows
from cckt.detector.config.config import InferenceConfig, PriorConfig
from cckt.detector.evaluation.detections import Detections
from cckt.detector.evaluation.scene import Scene
from cckt.detector.inference.network import Network
from cckt.detector.inference.scoring import scores_as, top_detections
from cckt.detector.ranks.world import World
from cckt.detector.students.contract import StudentOutput


class Abandoned(Exception):
    """Inference was left before its end, because it was asked to."""


@dataclass(frozen=True)
class Variant:
    """One way to get detections. All variants share the encoder's pass, those with equal priors the
    decoder's too."""

    name: str
    prior: PriorConfig
    inference: InferenceConfig


@dataclass(frozen=True)
class Inferred:
    """detections: of each variant, by name. faults: a line for each photo that could not be read (it has
    none).

    photos: that were read; seconds: of the whole loop, reading included.
    """

    detections: dict[str, Detections]
    faults: tuple[str, ...]
    photos: int
    seconds: float

    @property
    def images_per_second(self) -> float:
        """Photos read and answered a second, over all variants."""
        return self.photos / max(self.seconds, 1e-9)


def infer(
    network: Network,
    scene: Scene,
    variants: Sequence[Variant],
    *,
    share: tuple[int, int] = (0, 1),
    stop: Callable[[], bool] = bool,
    progress: Progress | None = None,
) -> Inferred:
    """Detect on every photo of a scene. The batch is the first variant's inference.batch.

    share: (r, n) takes every n-th batch from the r-th on; the batches themselves do not depend on n, nor does
    a photo's answer. stop: is asked after every batch whether to leave; `Abandoned` is then raised. Raises
    UserError where a variant asks for priors that are not there, or to keep to them
    without having any.
    """
    progress = progress or Silent()
    assert len({variant.name for variant in variants}) == len(variants) > 0, "variants are told apart by name"
    groups = _by_prior(network, scene, variants)
    text = scene.text.to(network.device)
    parts: dict[str, list[Detections]] = {variant.name: [] for variant in variants}
    faults: list[str] = []
    batches = _batches(scene.index, variants[0].inference.batch)[share[0] :: share[1]]
    photos, begin = sum(map(len, batches)), time.perf_counter()
    progress.start("detect", photos, "photos")
    for read in _read(network, scene.index, batches):
        faults += [fault for _, _, fault in read if fault]
        for fault in (fault for _, _, fault in read if fault):
            progress.note(fault)
        good = [(row, view) for row, view, _ in read if view is not None]
        rows = np.array([row for row, _ in good], np.int64)
        seen = network.look([view for _, view in good]) if good else None
        for present, said, group in groups if seen is not None else ():
            assert seen is not None
            chosen = None if present is None else [present[row] for row in rows]
            output = network.ask(seen, text, chosen if network.guided else None)
            for variant in group:
                parts[variant.name] += _detections(output, text, network, variant, scene, rows, chosen, said)
        progress.advance(len(read))
        if stop():
            raise Abandoned
    progress.finish()
    joined = {name: _in_index_order(Detections.join(found)) for name, found in parts.items()}
    return Inferred(joined, tuple(faults), photos - len(faults), time.perf_counter() - begin)


def infer_together(
    network: Network,
    scene: Scene,
    variants: Sequence[Variant],
    world: World,
    *,
    stop: Callable[[], bool] = bool,
    progress: Progress | None = None,
) -> Inferred | None:
    """As `infer`, the photos shared by the ranks; all that they found on rank 0, None on the others.

    Raises, on rank 0, UserError for what any of them could not do, and `Abandoned` where any was stopped.
    """
    if world.size == 1:
        return infer(network, scene, variants, stop=stop, progress=progress)
    own: Inferred | UserError | Abandoned
    share = (world.rank, world.size)
    try:
        own = infer(network, scene, variants, share=share, stop=stop, progress=progress)
    except (UserError, Abandoned) as error:
        own = error  # told to all, who would wait for this rank's share otherwise
    parts = world.gather(own)
    if parts is None:
        return None
    whole = []
    for part in parts:
        if not isinstance(part, Inferred):
            raise part
        whole.append(part)
    detections = {
        variant.name: _in_index_order(Detections.join([part.detections[variant.name] for part in whole]))
        for variant in variants
    }
    return Inferred(
        detections,
        tuple(fault for part in whole for fault in part.faults),
        sum(part.photos for part in whole),
        max(part.seconds for part in whole),
    )


def _by_prior(
    network: Network, scene: Scene, variants: Sequence[Variant]
) -> list[tuple[list[Rows] | None, npt.NDArray[np.float32] | None, list[Variant]]]:
    groups: dict[PriorConfig, list[Variant]] = {}
    for variant in variants:
        restricted = variant.inference.restrict_to_present
        if restricted and variant.prior.source == "none":
            raise UserError(
                "option inference.restrict_to_present: found true with prior.source none, which rules "
                "nothing out; give --priors clip, mllm, oracle or corrupted."
            )
        # A network that is not guided gives the same answer under any priors, so their columns need not
        # exist.
        unused = not network.guided and not restricted and not variant.inference.prior_weight
        groups.setdefault(PriorConfig(source="none") if unused else variant.prior, []).append(variant)
    weighed = {prior for prior, group in groups.items() if any(v.inference.prior_weight for v in group)}
    return [
        (scene.present(prior), scene.probabilities(prior) if prior in weighed else None, group)
        for prior, group in groups.items()
    ]


def _batches(index: Index, size: int) -> list[list[int]]:
    """Image rows in batches. Photos of like shape stand together, since a batch is padded to its largest."""
    order = np.lexsort((index.widths, np.round(index.widths / index.heights, 2)))
    return [order[at : at + size].tolist() for at in range(0, len(order), size)]


def _read(
    network: Network, index: Index, batches: Sequence[list[int]]
) -> Iterator[list[tuple[int, Tensor | None, str]]]:
    """(image row, (3, h, w) uint8 view or None, fault) of each batch, read ahead by threads."""

    def read(row: int) -> tuple[int, Tensor | None, str]:
        try:
            size = (int(index.widths[row]), int(index.heights[row]))
            photo = load_photo(index.photo_path(row), size, exif=index.exif)
        except BadPhoto as fault:
            return row, None, str(fault)
        return row, network.view(photo), ""

    with ThreadPoolExecutor(max(1, network.config.data.workers)) as pool:
        coming = iter(batches)
        ahead = [[pool.submit(read, row) for row in rows] for rows in islice(coming, 2)]
        while ahead:
            ready = ahead.pop(0)
            yield [future.result() for future in ready]
            ahead += [[pool.submit(read, row) for row in rows] for rows in islice(coming, 1)]


def _detections(
    output: StudentOutput,
    text: Tensor,
    network: Network,
    variant: Variant,
    scene: Scene,
    rows: Rows,
    present: list[Rows] | None,
    said: npt.NDArray[np.float32] | None,
) -> list[Detections]:
    inference, index = variant.inference, scene.index
    priors = None if said is None else said[rows]
    scores = scores_as(inference, output, text, network.config.model.tau, present, priors)
    sizes = [(int(index.heights[row]), int(index.widths[row])) for row in rows]
    ids = scene.vocabulary.category_ids
    answer = []
    for row, found in zip(
        rows, top_detections(scores, output.boxes[-1], sizes, inference.top, inference.nms), strict=True
    ):
        # A concept that is ruled out scores 0 and is no find. A score that is no number is kept, to be
        # refused.
        kept = (~(found.scores <= 0)).cpu().numpy()
        boxes = found.boxes_xyxy.double().cpu().numpy()[kept]
        answer.append(
            Detections(
                np.full(len(boxes), index.image_ids[row]),
                ids[found.concepts.cpu().numpy()[kept]],
                found.scores.double().cpu().numpy()[kept],
                np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1),
                f"the detector's answer on {index.folder}",
            )
        )
    return answer


def _in_index_order(detections: Detections) -> Detections:
    return detections.where(np.argsort(detections.image_ids, kind="stable"))
