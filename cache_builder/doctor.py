"""Checks of the offline half: what is installed, what a data set and its columns are worth, who can be asked.

A check looks at one thing and returns findings; it prints nothing and mends nothing. The online half's checks
are in `cckt.detector.doctor`.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.index import Index, novel_boxes, open_index, pseudo_note, verify_index
from cckt.cache_builder.store import ColumnInfo, column_info, list_columns, parse_name, teacher_of

LOOKED_FOR = 64
"""Photos of a data set that are looked for, spread over it."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. good: as it should be; warn: worth knowing; bad: must be mended first."""

    level: Literal["good", "warn", "bad"]
    subject: str
    message: str


def check_installation() -> list[Finding]:
    """What cckt needs is there, and in which versions."""
    findings, found = [], []
    try:
        needed = importlib.metadata.requires("cckt") or []
    except importlib.metadata.PackageNotFoundError:
        return [
            Finding("bad", "installation", "cckt itself is not installed; run pip install . in its folder")
        ]
    for line in needed:
        if "extra ==" in line:
            continue
        name = re.split(r"[^A-Za-z0-9_.-]", line, maxsplit=1)[0]
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            findings.append(Finding("bad", "installation", f"{line} is missing; run pip install '{line}'"))
    own = f"cckt {importlib.metadata.version('cckt')} on Python {platform.python_version()}"
    return [Finding("good", "installation", f"{own}: {', '.join(found)}"), *findings]


def check_machine() -> list[Finding]:
    """What computes here."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    findings = [Finding("good", "machine", f"{platform.platform()}, {cores} cores, {_memory()}")]
    for number in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(number)
        findings.append(
            Finding("good", "device", f"cuda:{number}, {card.name}, {card.total_memory >> 30} GiB")
        )
    if torch.backends.mps.is_available():
        findings.append(Finding("good", "device", "mps"))
    if len(findings) == 1:
        findings.append(
            Finding(
                "warn", "device", "cpu only: fine for shapeworld, days to weeks for a recipe of COCO's size"
            )
        )
    return findings


def check_data(data: Path) -> list[Finding]:
    """A data-set folder: its tables, its photos and every column."""
    subject = str(data)
    try:
        index = open_index(data)
    except UserError as error:
        return [Finding("bad", subject, str(error))]
    whole = verify_index(index)
    counts = ", ".join(f"{len(index.concepts.rows(split))} {split}" for split in ("base", "novel", "other"))
    told = "the tables are not what was built; build the index again with cckt data index"
    if whole:
        boxes = f"{len(index)} photos, {len(index.box_images)} boxes"
        told = f"{boxes}, {counts} concepts, keep {index.keep}; tables as built"
    findings = [Finding("good" if whole else "bad", subject, told), _photos(index)]
    found = pseudo_note(index)
    if found:
        findings.append(Finding("warn", subject, f"{found}: to be trained on, not to be scored on"))
    names = list_columns(data)
    if not names:
        findings.append(Finding("warn", subject, f"no column yet; make them with cckt cache all {data}"))
    infos = []
    for name in names:
        try:
            infos.append(column_info(data, name))
        except UserError as error:
            findings.append(Finding("bad", f"{data} {name}", str(error)))
    return [*findings, *(_column(index, info) for info in infos), *_one_teacher(subject, infos)]


def check_leak(data: Path) -> list[Finding]:
    """That no box of a concept that is not base can reach training from this data set, read box by box."""
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
            f"{data}: each of {boxes} boxes was read and is of a base concept, none of the {barred} others",
        )
    ]
    if crops is not None and crops.manifest.spec.index_digest == index.digest:
        rows = crops.manifest.spec.rows
        findings.append(Finding("good", "leak", f"column crops holds these {rows} boxes and no other"))
    return findings


def check_teachers(folders: Iterable[Path], device: str = "auto") -> list[Finding]:
    """Whether the teachers named by the folders' columns can be asked here, each loaded once; training and
    evaluation need none.
    """
    from cckt.cache_builder.teacher.clip import load_teacher

    named: dict[str, set[str]] = {}  # name -> weight digests of the columns
    for data in folders:
        for column in list_columns(data):
            try:
                teacher = teacher_of(column_info(data, column).manifest.spec.recipe)
            except UserError:
                continue
            if teacher is not None:
                named.setdefault(teacher["name"], set()).add(teacher["weight_digest"])
    findings = []
    for name, digests in named.items():
        try:
            loaded = load_teacher(name, device=device)
        except UserError as error:
            findings.append(Finding("warn", "teacher", f"{error} New columns and new words cannot be made."))
            continue
        for digest in sorted(digests):
            same = loaded.weight_digest == digest
            told = (
                "the weights that made the columns" if same else f"other weights than the columns' {digest}"
            )
            findings.append(
                Finding(
                    "good" if same else "bad",
                    "teacher",
                    f"{name}: {loaded.width} wide, on {loaded.device}, {told}",
                )
            )
    return findings


def check_mllm(name: str, device: str = "auto") -> list[Finding]:
    """Whether a multimodal LLM can be asked for priors here, and which of its tokens count as yes and no.

    Nothing of it runs but the loading; code of its own is not trusted.
    """
    from cckt.cache_builder.mllm import load_mllm

    subject = f"mllm {name}"
    try:
        loaded = load_mllm(name, device=device)
    except UserError as error:
        return [Finding("bad", subject, str(error))]
    millions = sum(value.numel() for value in loaded.model.parameters()) / 1e6
    kind = type(loaded.model).__name__
    told = f"{kind}, {millions:.1f}M parameters, on {loaded.device}; tokens for {loaded.yes_no.summary()}"
    return [Finding("good", subject, told)]


def _photos(index: Index) -> Finding:
    rows = np.unique(np.linspace(0, max(len(index) - 1, 0), min(LOOKED_FOR, len(index))).astype(int))
    missing = [index.photo_path(int(row)) for row in rows if not index.photo_path(int(row)).is_file()]
    if not missing:
        return Finding("good", str(index.folder), f"photos: {len(rows)} looked for, all there")
    level: Literal["bad", "warn"] = "bad" if len(missing) == len(rows) else "warn"
    told = f"photos: {len(missing)} of {len(rows)} looked for are not there, {missing[0]} the first"
    return Finding(level, str(index.folder), told)


def _column(index: Index, info: ColumnInfo) -> Finding:
    spec, subject = info.manifest.spec, f"{index.folder} {info.manifest.spec.name}"
    if spec.index_digest != index.digest:
        told = f"made for another index ({spec.index_digest}, not {index.digest})"
        return Finding("bad", subject, f"{told}; run {info.command} --overwrite")
    if not info.manifest.finished:
        return Finding("bad", subject, f"not finished; run {info.command}")
    maker = next((spec.recipe[key] for key in ("teacher", "model") if key in spec.recipe), None)
    maker = f" by {maker['name']}" if isinstance(maker, dict) else ""
    invalid = info.manifest.invalid
    told = f"{spec.rows} x {spec.width}{maker}, {invalid} rows without a value, finished"
    return Finding("warn" if invalid > spec.rows / 2 else "good", subject, told)


def _one_teacher(subject: str, infos: Iterable[ColumnInfo]) -> list[Finding]:
    """Under each label, "" first, one teacher; several labels are several teachers side by side."""
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
        told = "; ".join(f"{', '.join(names)}: {digest}" for digest, names in teachers.items())
        findings.append(
            Finding("bad", subject, f"columns of several teachers ({told}); make all of them with one")
        )
    if len(labels) > 1:
        told = ", ".join(f"{label or 'the first'} ({named[label]})" for label in sorted(labels))
        findings.append(
            Finding("good", subject, f"teachers side by side: {told}; --set data.teacher=LABEL takes one")
        )
    return findings


def _memory() -> str:
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB of memory"
    except (AttributeError, ValueError, OSError):
        return "memory unknown"
