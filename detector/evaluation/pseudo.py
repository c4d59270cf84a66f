"""Self-training: a run's own confident finds as extra boxes of a derived index (METHOD.md section 6)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.progress import Progress, Silent
from cckt.cache_builder.index import DamagedIndex, Index, add_boxes, open_index
from cckt.detector.evaluation.detect import infer
from cckt.detector.evaluation.detections import Detections
from cckt.detector.evaluation.evaluate import chosen_variant
from cckt.detector.evaluation.matches import iou
from cckt.detector.evaluation.scene import open_scene
from cckt.detector.inference.network import load_network
from cckt.detector.runs.run_folder import evaluation_weights, run_config

OVERLAP = 0.5
"""A find that overlaps a box this much says nothing new, whatever the box is called."""


@dataclass(frozen=True)
class PseudoReport:
    """What was added. finds: of the run with at least the score; on_boxes: of them, left out because a box or
    a surer find lies there; added: boxes of the new index, by concept in `concepts`; digest: of the index."""

    folder: Path
    digest: str
    min_score: float
    finds: int
    on_boxes: int
    added: int
    photos: int
    concepts: dict[str, int]

    def lines(self) -> list[str]:
        """For a person."""
        most = sorted(self.concepts.items(), key=lambda pair: (-pair[1], pair[0]))[:8]
        return [
            f"{self.finds} finds with a score of {self.min_score:g} or more",
            f"{self.on_boxes} left out: a box or a surer find lies there",
            f"{self.added} boxes added in {self.photos} photos: "
            + (", ".join(f"{name} {count}" for name, count in most) or "none"),
            f"{self.folder}/index, {self.digest}; make its text and crops columns before training on it",
        ]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "folder": str(self.folder)}


def pseudo_index(
    run: Path,
    data: Path,
    out: Path,
    *,
    min_score: float = 0.9,
    splits: Sequence[str] = ("base", "novel"),
    priors: str | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> PseudoReport:
    """Make a data set of `data` and what a run finds in its photos with at least `min_score`.

    out: the new data-set folder. Its index marks every added box (`Index.pseudo`), has another digest, and
    names the run it came from. Novel concepts that got a box are base there, since they are to be trained on;
    the card's "pseudo" entry says which. splits: whose finds are taken. priors: as for `evaluate_run`. Finds
    that overlap a box, a crowd or a surer find by half are left out, and so are those of concepts that LVIS
    verified to be absent.

    Raises UserError for a run, data set or column that is missing or does not fit, and for an `out` that
    is `data` or holds an index that was not made from it.
    """
    if not 0 < min_score <= 1:
        raise UserError(f"--min-score {min_score:g}: expected a number above 0 and at most 1.")
    if out.resolve() == data.resolve():
        raise UserError(
            f"--out {out}: is the data set itself; name another folder, boxes are never mixed in."
        )
    index = open_index(data)
    _check_place(out, index)
    config = run_config(run)
    network, facts = load_network(run, device)
    scene = open_scene(index, facts, scored=False)
    variant = chosen_variant(config, priors)
    found = infer(network, scene, [variant], progress=progress or Silent()).detections[variant.name]
    wanted = {c.category_id for c in scene.vocabulary if c.split in splits}
    sure = found.where((found.scores >= min_score) & np.isin(found.category_ids, sorted(wanted)))
    new = _news(index, sure)
    rows = np.array([index.image_row(int(one)) for one in new.image_ids], np.int64)
    concepts = np.array([index.concepts.row_of(int(one)) for one in new.category_ids], np.int64)
    corners = np.concatenate([new.boxes_xywh[:, :2], new.boxes_xywh[:, :2] + new.boxes_xywh[:, 2:]], 1)
    origin = {
        "run": run.resolve().name,
        "weights": evaluation_weights(run).name,
        "index_digest": index.digest,
        "min_score": min_score,
        "prior": variant.prior.source,
        "classification": variant.inference.classification,
    }
    digest = add_boxes(index, out, rows, concepts, corners, origin)
    counts = np.bincount(concepts, minlength=len(index.concepts))
    return PseudoReport(
        folder=out,
        digest=digest,
        min_score=min_score,
        finds=len(sure),
        on_boxes=len(sure) - len(new),
        added=len(new),
        photos=len(np.unique(rows)),
        concepts={index.concepts[int(row)].name: int(counts[row]) for row in np.flatnonzero(counts)},
    )


def _check_place(out: Path, index: Index) -> None:
    """An index that is there may be replaced only where it was made from the same one."""
    if not (out / "index").exists():
        return
    with suppress(DamagedIndex):
        there = open_index(out)
        if (there.card.get("pseudo") or {}).get("index_digest") != index.digest:
            raise UserError(
                f"--out {out}: holds an index that was not made from {index.folder}; name another folder."
            )


def _news(index: Index, sure: Detections) -> Detections:
    """The finds that overlap neither a box of the index nor a surer find, surest first."""
    sure = sure.where(np.argsort(-sure.scores, kind="stable"))
    sides = sure.boxes_xywh[:, 2:].min(1) if len(sure) else np.zeros(0)
    known: dict[int, np.ndarray] = {}
    kept = []
    for number, image in enumerate(sure.image_ids.tolist()):
        if image not in known:
            boxes = index.boxes_of(index.image_row(image))
            corners = np.asarray(index.box_xyxy[boxes], np.float64)
            known[image] = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1)
        box = sure.boxes_xywh[[number]]
        over = iou(box, known[image], np.zeros(len(known[image]), bool))
        image_row = index.image_row(image)
        absent = index.concepts.row_of(int(sure.category_ids[number])) in index.negatives_of(image_row)
        if not absent and sides[number] >= 1 and (not over.size or over.max() < OVERLAP):
            kept.append(number)
            known[image] = np.concatenate([known[image], box])
    return sure.where(np.array(kept, np.int64))
