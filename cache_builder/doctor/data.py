"""Checks of data sets: tables, photos, columns, proposals, and what must not be learned from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Literal

import numpy as np

from cckt.cache_builder.base.errors import UserError, counted, listed
from cckt.cache_builder.doctor.finding import Finding
from cckt.cache_builder.index import (
    Index,
    index_command,
    index_problems,
    novel_boxes,
    open_index,
    pseudo_note,
)
from cckt.cache_builder.photos import load_or_reason
from cckt.cache_builder.proposals import (
    evidence,
    find_leak,
    is_guarded,
    list_proposals,
    open_proposals,
    provenances_of,
)
from cckt.cache_builder.store import (
    ColumnInfo,
    all_columns_command,
    column_info,
    list_columns,
    parse_name,
    teacher_of,
)
from cckt.cache_builder.store.format.spec import OVER_PROPOSALS

SAMPLED_PHOTOS = 64
"""Photos of a data set that are read, spread evenly over it."""


def check_data(data: Path) -> list[Finding]:
    """Check a data-set folder: its tables, a sample of its photos, and every column."""
    subject = str(data)
    try:
        index = open_index(data)
    except UserError as error:
        return [Finding("bad", subject, str(error))]
    problems = index_problems(index)
    counts = ", ".join(f"{len(index.concepts.rows(split))} {split}" for split in ("base", "novel", "other"))
    message = f"{listed(problems, 3)}; build the index again with {index_command(data)}"
    if not problems:
        boxes = f"{counted(len(index), 'photo')}, {counted(len(index.box_images), 'box', 'boxes')}"
        message = f"{boxes}, {counts} concepts, keep {index.keep}; tables unchanged since they were built"
    findings = [Finding("bad" if problems else "good", subject, message), _check_photos(index)]
    note = pseudo_note(index)
    if note:
        findings.append(Finding("warn", subject, f"{note}: train on this data set, but do not score on it"))
    names = list_columns(data)
    if not names:
        findings.append(Finding("warn", subject, f"no column yet; run {all_columns_command(data)}"))
    infos = []
    for name in names:
        try:
            infos.append(column_info(data, name))
        except UserError as error:
            findings.append(Finding("bad", f"{data} {name}", str(error)))
    digests = {}
    for label in list_proposals(data):
        with suppress(UserError):  # the finding on the table itself tells why it cannot be opened
            digests[label] = open_proposals(data, index, label).digest
    checked = (_check_column(index, info, digests) for info in infos)
    return [*findings, *checked, *_check_labels(subject, infos)]


def check_leak(data: Path) -> list[Finding]:
    """Check, box by box, that training on this data set sees only boxes of base concepts."""
    try:
        index = open_index(data)
        crops = column_info(data, "crops") if "crops" in list_columns(data) else None
    except UserError as error:
        return [Finding("bad", "leak", str(error))]
    leaked, boxes = novel_boxes(index), len(index.box_images)
    barred = len(index.concepts.rows("novel", "other"))
    if leaked:
        return [
            Finding(
                "bad",
                "leak",
                f"{data}: {leaked} of {boxes} boxes are of concepts that are not base; build the index again "
                "with --keep base",
            )
        ]
    findings = [
        Finding(
            "good",
            "leak",
            f"{data}: {counted(boxes, 'box was', 'boxes were')} read, all of base concepts, none of the "
            f"{counted(barred, 'other concept')}",
        )
    ]
    if crops is not None and crops.manifest.spec.index_digest == index.digest:
        rows = crops.manifest.spec.rows
        findings.append(
            Finding(
                "good", "leak", f"column crops holds {counted(rows, 'box', 'boxes')}, these and no others"
            )
        )
    return findings


def check_proposals(data: Path, recipe: str = "") -> list[Finding]:
    """Check that no maker of proposals or nouns saw novel classes, where an open-vocabulary protocol is
    followed.

    recipe: name of the recipe that is trained.
    """
    findings = []
    try:
        index = open_index(data)
        columns = [name for name in list_columns(data) if name.startswith("proposals")]
        makers = {name: maker for one in columns for name, maker in provenances_of(data, one).items()}
    except UserError as error:
        return [Finding("bad", "leak", str(error))]
    for name, provenance in makers.items():
        leak = find_leak(provenance, index)
        subject = f"{data}: column {name}, made by {provenance}"
        if not leak:
            findings.append(Finding("good", "leak", f"{subject}: {evidence(provenance, index)}"))
        elif is_guarded(index, recipe):
            message = f"{subject}, which {leak}; training under an open-vocabulary protocol refuses it"
            findings.append(Finding("bad", "leak", f"{message}: make it again with a maker that saw none"))
        else:
            message = f"{subject}, which {leak}; welcome, because no open-vocabulary protocol is followed"
            findings.append(Finding("good", "leak", message))
    return findings


def _check_photos(index: Index) -> Finding:
    rows = np.unique(np.linspace(0, max(len(index) - 1, 0), min(SAMPLED_PHOTOS, len(index))).astype(int))
    subject = str(index.folder)
    try:
        faults = [found for row in rows.tolist() if isinstance(found := load_or_reason(index, row), str)]
    except UserError as error:
        return Finding("bad", subject, str(error))
    if not faults:
        return Finding("good", subject, f"photos: a sample of {len(rows)} can be read")
    level: Literal["bad", "warn"] = "bad" if len(faults) == len(rows) else "warn"
    message = f"photos: {len(faults)} of a sample of {len(rows)} cannot be read, the first: {faults[0]}"
    return Finding(level, subject, message)


def _check_column(index: Index, info: ColumnInfo, tables: Mapping[str, str]) -> Finding:
    """tables: label -> digest of each proposals table that can be opened."""
    spec, subject = info.manifest.spec, f"{index.folder} {info.manifest.spec.name}"
    parts = parse_name(spec.name)
    expected = tables.get(parts.of) if parts and spec.table in OVER_PROPOSALS else index.digest
    if expected is None:
        return Finding("bad", subject, "its proposals table cannot be opened; see the finding on the table")
    if spec.index_digest != expected:
        message = f"made for another {spec.owner} ({spec.index_digest}, not {expected})"
        return Finding("bad", subject, f"{message}; run {info.command} --overwrite")
    if not info.manifest.finished:
        return Finding("bad", subject, f"not finished; run {info.command}")
    maker = next((spec.recipe[key] for key in ("teacher", "model") if key in spec.recipe), None)
    maker = f" by {maker['name']}" if isinstance(maker, dict) else ""
    invalid = info.manifest.invalid
    message = f"{spec.rows} x {spec.width}{maker}, {counted(invalid, 'row')} without a value, finished"
    return Finding("warn" if invalid > spec.rows / 2 else "good", subject, message)


def _check_labels(subject: str, infos: Iterable[ColumnInfo]) -> list[Finding]:
    """Check that all columns with one label ("" for the first teacher) come from one teacher."""
    labels: dict[str, dict[str, list[str]]] = {}
    named: dict[str, str] = {}
    for info in infos:
        name, teacher = info.manifest.spec.name, teacher_of(info.manifest.spec.recipe)
        if teacher is not None:
            parts = parse_name(name)
            label = parts.label if parts else ""
            labels.setdefault(label, {}).setdefault(teacher["weight_digest"], []).append(name)
            named[label] = teacher["name"]
    findings = []
    for teachers in (one for one in labels.values() if len(one) > 1):
        found = "; ".join(f"{', '.join(names)}: {digest}" for digest, names in teachers.items())
        findings.append(
            Finding("bad", subject, f"columns of several teachers ({found}); make all with one teacher")
        )
    if len(labels) > 1:
        found = ", ".join(f"{label or 'no label'} ({named[label]})" for label in sorted(labels))
        findings.append(
            Finding("good", subject, f"teachers by label: {found}; --set data.teacher=LABEL selects one")
        )
    return findings
