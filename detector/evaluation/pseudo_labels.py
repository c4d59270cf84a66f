"""Self-training: add a run's confident detections to a derived index (docs/method/cckt_det.md, section 9)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cckt.cache_builder.base.boxes import xywh_of
from cckt.cache_builder.base.disk_faults import require_room
from cckt.cache_builder.base.errors import UserError, counted, listed
from cckt.cache_builder.base.progress import Progress, Silent
from cckt.cache_builder.index import DamagedIndexError, Index, add_boxes, open_index
from cckt.detector.evaluation.detections import Detections
from cckt.detector.evaluation.evaluate import chosen_variant
from cckt.detector.evaluation.evaluation_set import open_evaluation_set
from cckt.detector.evaluation.inference_loop import infer
from cckt.detector.evaluation.match_detections import iou
from cckt.detector.inference.confirm import Confirmation
from cckt.detector.inference.inference_model import load_inference_model
from cckt.detector.runs.checkpoints import evaluation_weights
from cckt.detector.runs.run_folder import Facts, run_config

OVERLAP = 0.5
"""IoU from which a detection counts as an existing box, whatever the concept of that box."""


@dataclass(frozen=True)
class PseudoReport:
    """What was added to the new index.

    digest: of the new index; finds: detections with at least `min_score`; on_boxes: detections left out
    because they overlap a box or a detection with a higher score; added: boxes added in `photos` images, by
    concept in `concepts`.
    """

    folder: Path
    digest: str
    min_score: float
    finds: int
    on_boxes: int
    added: int
    photos: int
    concepts: dict[str, int]

    def lines(self) -> list[str]:
        """Return a summary in text lines."""
        most = sorted(self.concepts.items(), key=lambda pair: (-pair[1], pair[0]))
        return [
            f"{counted(self.finds, 'detection')} with a score of {self.min_score:g} or more",
            f"{self.on_boxes} left out: they overlap a box or a detection with a higher score",
            f"{counted(self.added, 'box', 'boxes')} added in {counted(self.photos, 'photo')}: "
            + (listed([f"{name} {count}" for name, count in most], 8) or "none"),
            f"{self.folder}/index, {self.digest}; make its text and crops columns before training on it",
        ]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**asdict(self), "folder": str(self.folder)}


def pseudo_index(
    run: Path,
    data: Path,
    out: Path,
    *,
    min_score: float = 0.9,
    splits: Sequence[str] = ("base", "novel"),
    priors: str | None = None,
    confirm: Confirmation | None = None,
    device: str = "auto",
    progress: Progress | None = None,
    detect: Callable[[Index], Detections] | None = None,
) -> PseudoReport:
    """Make a data set of `data` plus a run's detections with a score of at least `min_score`.

    out: the new data-set folder. Its index marks every added box (`Index.pseudo`), has another digest, and
    records the run. Novel concepts with an added box become base there, because they can be trained on; the
    "pseudo" entry of the index's card lists them. splits: splits of the detections to add. priors: as for
    `evaluate_run`. confirm: the teacher that scores the best boxes; None for none. Detections that overlap a
    box, a crowd or a detection with a higher score (IoU of at least OVERLAP) are left out, and so are
    detections of concepts that LVIS verified to be absent.

    detect: gives the detections of `ShareDetector` on all photos, made elsewhere; None makes them here.

    Raises UserError for a run, data set or column that is missing or does not fit, and for an `out` that
    is `data` or holds an index that was not made from it.
    """
    if not 0 < min_score <= 1:
        raise UserError(f"--min-score {min_score:g}: expected a number above 0 and at most 1.")
    if out.resolve() == data.resolve():
        raise UserError(
            f"--out {out}: is the data set itself, expected another folder; name one, because pseudo boxes "
            "are never added to the annotated index."
        )
    index = open_index(data)
    _check_out(out, index)
    require_room(out)
    variant = chosen_variant(run_config(run), priors)
    facts = Facts.load(run)
    dataset = open_evaluation_set(index, facts, scored=False)
    if detect is None:
        found = ShareDetector(run, data, priors, device, confirm).detect((0, 1), progress)
    else:
        found = detect(index)
    kept_ids = {c.category_id for c in dataset.vocabulary if c.split in splits}
    confident = found.where((found.scores >= min_score) & np.isin(found.category_ids, sorted(kept_ids)))
    new = _without_overlaps(index, confident)
    rows = np.array([index.image_row(int(one)) for one in new.image_ids], np.int64)
    concepts = np.array([index.concepts.row_of(int(one)) for one in new.category_ids], np.int64)
    corners = np.concatenate([new.boxes_xywh[:, :2], new.boxes_xywh[:, :2] + new.boxes_xywh[:, 2:]], 1)
    origin: dict[str, Any] = {
        "run": run.resolve().name,
        "weights": evaluation_weights(run).name,
        "index_digest": index.digest,
        "min_score": min_score,
        "prior": variant.prior.source,
        "classification": variant.inference.classification,
    }
    if teacher := (facts.taught_by or {}).get("name"):
        origin["teacher"] = teacher  # hints name it: the data set has no column yet
    if confirm is not None:
        origin["confirm"] = confirm.count
    if facts.started_from or facts.learned_from:  # whoever trains on these boxes learns from them too
        origin["makers"] = [*facts.started_from, *facts.learned_from]
    digest = add_boxes(index, out, rows, concepts, corners, origin)
    counts = np.bincount(concepts, minlength=len(index.concepts))
    return PseudoReport(
        folder=out,
        digest=digest,
        min_score=min_score,
        finds=len(confident),
        on_boxes=len(confident) - len(new),
        added=len(new),
        photos=len(np.unique(rows)),
        concepts={index.concepts[int(row)].name: int(counts[row]) for row in np.flatnonzero(counts)},
    )


class ShareDetector:
    """A run that detects on shares of the photos of a data set. See `pseudo_index` for the arguments."""

    def __init__(
        self,
        run: Path,
        data: Path,
        priors: str | None = None,
        device: str = "auto",
        confirm: Confirmation | None = None,
    ) -> None:
        self._model, facts = load_inference_model(run, device, fold=True)
        self._dataset = open_evaluation_set(open_index(data), facts, scored=False)
        self._variant, self._confirm = chosen_variant(run_config(run), priors), confirm

    def detect(self, share: tuple[int, int], progress: Progress | None = None) -> Detections:
        """Return the detections on share (i, n) of the photos, see `infer`; (0, 1) is all of them."""
        result = infer(
            self._model,
            self._dataset,
            [self._variant],
            share=share,
            confirm=self._confirm,
            progress=progress or Silent(),
        )
        return result.detections[self._variant.name]


def _check_out(out: Path, index: Index) -> None:
    """Raise UserError if `out` holds an index that was not made from `index`."""
    if not (out / "index" / "index.json").exists():  # also after a kill: the writer removes what it left
        return
    with suppress(DamagedIndexError):
        existing = open_index(out)
        if (existing.card.get("pseudo") or {}).get("index_digest") != index.digest:
            raise UserError(
                f"--out {out}: holds an index that was not made from {index.folder}, expected none or one "
                "made from it; name another folder."
            )


def _without_overlaps(index: Index, confident: Detections) -> Detections:
    """Return the detections that overlap no box and no detection of higher score, by falling score.

    A detection inside a crowd of its own concept overlaps it, as when scores are matched: it may be one of
    the objects that the crowd stands for.
    """
    confident = confident.where(np.argsort(-confident.scores, kind="stable"))
    sides = confident.boxes_xywh[:, 2:].min(1) if len(confident) else np.zeros(0)
    known: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # boxes, and the concepts of those that are crowds
    kept = []
    for number, image in enumerate(confident.image_ids.tolist()):
        if image not in known:
            boxes = index.boxes_of(index.image_row(image))
            corners = np.asarray(index.box_xyxy[boxes], np.float64)
            crowds = np.where(index.iscrowd[boxes], index.box_concepts[boxes], -1)
            known[image] = (xywh_of(corners), crowds)
        box, (others, crowds) = confident.boxes_xywh[[number]], known[image]
        concept = index.concepts.row_of(int(confident.category_ids[number]))
        over = iou(box, others, crowds == concept)
        absent = concept in index.negatives_of(index.image_row(image))
        if not absent and sides[number] >= 1 and (not over.size or over.max() < OVERLAP):
            kept.append(number)
            known[image] = (np.concatenate([others, box]), np.append(crowds, -1))
    return confident.where(np.array(kept, np.int64))
