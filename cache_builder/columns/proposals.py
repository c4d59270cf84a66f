"""The column `proposals/boxes`: the best class-agnostic regions of every image (docs/method/hd_ovd.md,
section 3).

The regions come from a `Proposer` (a run of ours or a detector of transformers) or from a COCO results file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, Unpack

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cckt.cache_builder.base.constants import PROPOSAL_BATCH, SAW_NOVEL
from cckt.cache_builder.base.errors import UserError, counted
from cckt.cache_builder.columns.growth.begin import Growth
from cckt.cache_builder.columns.options import Making, Options
from cckt.cache_builder.columns.proposal_copies import annotated_boxes, copying
from cckt.cache_builder.columns.report import CacheReport, report_of
from cckt.cache_builder.index import Index, open_index
from cckt.cache_builder.photos import check_photos, load_or_reason
from cckt.cache_builder.proposals.leak import find_leak, leak_notes
from cckt.cache_builder.proposals.provenance import Provenance, check_saw_novel
from cckt.cache_builder.proposals.results_file import ResultBoxes, read_boxes
from cckt.cache_builder.proposals.select import Selection, used_slots
from cckt.cache_builder.proposals.table import BOXES
from cckt.cache_builder.runner import Item, RunReport, run_chunks
from cckt.cache_builder.store import (
    ColumnName,
    ColumnSpec,
    check_label,
    column_spec,
    open_column,
    repair_command,
)

Floats = NDArray[np.float64]
Regions = tuple[Floats, Floats]
"""Boxes (S, 4) xyxy as fractions of the image's sides, and scores (S,)."""


class Proposer(Protocol):
    """A detector that finds class-agnostic regions."""

    provenance: Provenance
    recipe: dict[str, Any]
    """What decides the boxes, beside weights and batch: size of the input, precision and so on."""

    def prepare(self, photo: Image.Image) -> Any:
        """Return the input of an RGB photo; called in the threads that decode."""

    def propose(self, views: Sequence[Any]) -> list[Regions]:
        """Return the regions of each prepared photo, in any order and number."""


def cache_proposals(
    data: Path,
    proposer: Proposer,
    *,
    selection: Selection | None = None,
    name: str = "",
    **options: Unpack[Options],
) -> CacheReport:
    """Make the column `proposals/boxes` by a detector: (I, 6 K) float32, row i for image row i; see
    `Selection`.

    name: label of a second table; the column is `proposals-NAME/boxes`. An image without a region has a valid
    row without boxes; a photo that cannot be read has an invalid row and a note. options: see `Making`;
    `batch` is of the detector. Rows of unchanged photos are copied from the table of an earlier index, see
    `copying`. After a kill the same call resumes.

    Raises UserError for what the user can correct, and if no image has a proposal.
    """
    selection = selection or Selection()
    options.setdefault("batch", PROPOSAL_BATCH)
    making = Making(**options)
    index = open_index(data)
    check_photos(index)
    provenance = proposer.provenance
    if provenance.maker == "run":  # the concepts that it was trained on are known
        provenance = replace(provenance, saw_novel="yes" if find_leak(provenance, index) else "no")
    for note in leak_notes(provenance, index):  # before hours of detection
        making.reporter.note(note)
    recipe = {"detector": proposer.recipe, "batch": making.batch}
    spec = proposals_spec(index, provenance, selection, recipe, making.chunk_rows, name)
    growth = making.begin(data, spec, index, changing=("provenance",))
    reader = PhotoViews(index, proposer.prepare, making.strict)
    propose = _by_detector(index, proposer, selection)
    read, notes = copying(growth, index, reader, propose, selection, making.reuse)
    run = run_chunks(
        growth.writer,
        read,
        propose,
        batch=making.batch,
        spans=lambda lo, hi: [(row, row + 1) for row in range(lo, hi)],
        unit="photos",
        **making.reading,
    )
    return _report(growth, run, making, index, provenance, notes)


def import_proposals(
    data: Path,
    file: Path,
    *,
    trained_on: str = "",
    saw_novel: str = SAW_NOVEL,
    selection: Selection | None = None,
    name: str = "",
    **options: Unpack[Options],
) -> CacheReport:
    """Make the column `proposals/boxes` from a COCO results file; see `cache_proposals` and `read_boxes`.

    trained_on: what the file's detector was trained on, in words. saw_novel: "yes", "no" or "unknown",
    whether that were novel classes.
    """
    selection = selection or Selection()
    making = Making(**options)
    stated = check_saw_novel(saw_novel)
    index = open_index(data)
    boxes = read_boxes(file, index, making.reporter)
    provenance = Provenance("import", file.name, boxes.digest, trained_on, saw_novel=stated)

    def rows_of(images: Sequence[int]) -> NDArray[np.float32]:
        return np.stack([selection.row(*boxes.of_image(one), *annotated_boxes(index, one)) for one in images])

    _require_some(boxes, rows_of, selection, file)
    spec = proposals_spec(index, provenance, selection, {}, making.chunk_rows, name)
    growth = making.begin(data, spec, index, copies=False, changing=("provenance",))
    run = run_chunks(
        growth.writer,
        lambda lo, hi: [Item(row, row) for row in range(lo, hi)],
        rows_of,
        **{**making.reading, "workers": 0, "processes": False},
        unit="photos",
    )
    return _report(growth, run, making, index, provenance)


@dataclass(frozen=True)
class PhotoViews:
    """Reads the inputs of a detector: items hold (image row, prepared photo)."""

    index: Index
    prepare: Callable[[Image.Image], Any]
    strict: bool = False

    def __call__(self, lo: int, hi: int) -> Iterable[Item]:
        """Yield the items of image rows [lo, hi)."""
        for image in range(lo, hi):
            photo = load_or_reason(self.index, image, strict=self.strict)
            if isinstance(photo, str):
                yield Item(image, reason=photo)
            else:
                yield Item(image, (image, self.prepare(photo)))


def proposals_spec(
    index: Index,
    provenance: Provenance,
    selection: Selection,
    recipe: dict[str, Any],
    chunk_rows: int,
    label: str = "",
) -> ColumnSpec:
    """Return the spec of the column."""
    return column_spec(
        ColumnName(BOXES, of=check_label(label)),
        rows=len(index),
        width=selection.width,
        chunk_rows=chunk_rows,
        index_digest=index.digest,
        recipe={"provenance": provenance.to_json(), "selection": selection.to_json(), **recipe},
    )


def _by_detector(
    index: Index, proposer: Proposer, selection: Selection
) -> Callable[[list[tuple[int, Any]]], NDArray[np.float32]]:
    """Return the runner's map: (image row, prepared photo) of n photos -> their rows."""

    def map_views(views: list[tuple[int, Any]]) -> NDArray[np.float32]:
        rows = []
        for (image, _), (boxes, scores) in zip(
            views, proposer.propose([view for _, view in views]), strict=True
        ):
            annotated, size = annotated_boxes(index, image)
            pixels = np.asarray(boxes, np.float64).reshape(-1, 4) * np.array([*size, *size])
            rows.append(selection.row(pixels, np.asarray(scores, np.float64), annotated, size))
        return np.stack(rows)

    return map_views


def _require_some(
    boxes: ResultBoxes,
    rows_of: Callable[[Sequence[int]], NDArray[np.float32]],
    selection: Selection,
    file: Path,
) -> None:
    """Raise UserError if no image would have a proposal."""
    for image in np.flatnonzero(np.diff(boxes.offsets)).tolist():
        if used_slots(rows_of([image])).any():
            return
    raise UserError(
        f"--import {file}: all of its {len(boxes.scores)} boxes are under {selection.min_side:g} px on a "
        "side, expected some proposals; lower --min-side, or check that the boxes are in pixels."
    )


def _report(
    growth: Growth,
    run: RunReport,
    making: Making,
    index: Index,
    provenance: Provenance,
    first: Sequence[str] = (),
) -> CacheReport:
    """Put the finished column in its place; return the report, with a line on the proposals.

    Raises UserError if no image has one: a table that would have been replaced stays.
    """
    writer = growth.writer
    if run.manifest is None:
        return report_of(writer, run, making.reporter, first, strict=making.strict, photos=len(index))
    column = open_column(growth.readable, writer.spec.name)
    counts, repeats = np.zeros(len(index), np.int64), 0
    for lo in range(0, len(index), 4096):
        rows = column.slice(lo, min(lo + 4096, len(index)))
        used = used_slots(rows)
        counts[lo : lo + len(rows)] = used.sum(1)
        repeats += int(rows.reshape(len(rows), -1, 6)[:, :, 5][used].sum())
    side = writer.spec.recipe["selection"]["min_side"]
    if len(index) and not counts.any():
        recipe = writer.spec.recipe
        lower = {**recipe, "selection": {**recipe["selection"], "min_side": 1.0}}
        command = repair_command(str(index.folder), writer.spec.name, lower)
        raise UserError(
            f"{provenance} found no proposal of at least {side:g} px on a side in any of the {len(index)} "
            f"images of {index.folder}, expected some; choose another source, or a lower --min-side, as in "
            f"`{command} --overwrite`."
        )
    empty = int((counts == 0).sum()) - run.manifest.invalid
    growth.finish(run.manifest)
    notes = [
        *first,
        f"{counted(int(counts.sum()), 'proposal')}, {counts.sum() / max(len(index), 1):.1f} per image; "
        f"{counted(repeats, 'of them repeats', 'of them repeat')} an annotated box",
        *([f"{counted(empty, 'image has', 'images have')} no proposal"] if empty else []),
    ]
    notes += leak_notes(provenance, index)
    return report_of(writer, run, making.reporter, notes, strict=making.strict, photos=len(index))
