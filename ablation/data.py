"""Data of an ablation: folders that were named or shapeworld's, a teacher's columns, and how strong it is."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cckt.ablation.plan import Plan
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.progress import Progress
from cckt.cache_builder.columns.clip_priors import cache_clip_priors
from cckt.cache_builder.columns.crops import cache_crops
from cckt.cache_builder.columns.images import cache_images
from cckt.cache_builder.columns.text import cache_text
from cckt.cache_builder.index import copy_index, open_index
from cckt.cache_builder.presence import oracle_presence
from cckt.cache_builder.quality.existence import existence_report
from cckt.cache_builder.store import open_column
from cckt.cache_builder.teacher.clip import load_teacher
from cckt.detector.config.config import Config
from cckt.shapeworld.dataset import make_dataset

TRAIN_SEED, HELD_OUT_SEED = 1, 77
"""The quickstart's photos to train on; held-out ones on which nothing was chosen."""
Say = Callable[[str], None]


def folders(plan: Plan, say: Say, progress: Progress, *, with_columns: bool = True) -> tuple[Path, Path]:
    """The folders to train on and to measure on; of shapeworld where none are given."""
    if plan.train is not None and plan.val is not None:
        return plan.train, plan.val
    if plan.train is not None or plan.val is not None:
        raise UserError("one data set is named and the other is not; give both --train and --val.")
    if not plan.recipe.startswith("shapeworld"):
        raise UserError(
            f"--recipe {plan.recipe} needs photos of yours; give --train FOLDER and --val FOLDER."
        )
    seen, val = plan.out / "train", plan.out / "held-out"
    say(f"{plan.photos} photos of shapeworld to train on, {plan.held_out} to measure on")
    for folder, photos, seed, keep in (
        (seen, plan.photos, TRAIN_SEED, "base"),
        (val, plan.held_out, HELD_OUT_SEED, "all"),
    ):
        if not (folder / "index" / "index.json").is_file():
            make_dataset(folder, photos, seed, keep=keep, progress=progress)
        there = len(open_index(folder))
        if there != photos:
            raise UserError(
                f"--out {plan.out}: holds tables of {there} photos in {folder.name}, this one is of "
                f"{photos}; name another folder, or ask for as many."
            )
    if with_columns:
        columns(seen, val, "shapeworld", plan, progress)
    return seen, val


def columns(seen: Path, val: Path, teacher: str, plan: Plan, progress: Progress) -> None:
    """What runs read, by one teacher; finished columns are kept, and those of another teacher refused."""
    configs = plan.configs()
    known = load_teacher(teacher, device=configs[""].train.device)
    cache_text(seen, known, progress=progress)
    cache_crops(seen, known, progress=progress)
    cache_text(val, known, progress=progress)
    heeded = any(config.trains_on_priors for config in configs.values())
    for folder in (seen, val) if heeded else (val,):
        cache_images(folder, known, progress=progress)
        cache_clip_priors(folder, progress=progress)


def teacher_folders(plan: Plan, teacher: str, seen: Path, val: Path, progress: Progress) -> tuple[Path, Path]:
    """Data-set folders of a teacher's own: the same tables over the same photos, its columns beside them."""
    place = plan.out / "teachers" / label(teacher)
    folders = (place / "train", place / "val")
    for source, folder in zip((seen, val), folders, strict=True):
        copy_index(open_index(source), folder)
    columns(*folders, teacher, plan, progress)
    return folders


def label(teacher: str) -> str:
    """A teacher's name as a folder can bear it; of a folder its last part."""
    short = Path(teacher.removeprefix("local-dir:")).name if teacher.startswith("local-dir:") else teacher
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", short)


def strength(seen: Path, val: Path, config: Config) -> dict[str, Any]:
    """How strong a teacher is before any detector learns from it, in [0, 1].

    crops_named: share of the training crops whose nearest word, of all concepts, is their own; priors_ap:
    mean average precision of ranking the held-out photos by its priors.
    """
    index = open_index(seen)
    text, crops = (open_column(seen, name, index_digest=index.digest) for name in ("text", "crops"))
    valid = np.flatnonzero(crops.valid_all())
    words = text.all()
    nearest = np.concatenate(
        [
            (crops.take(rows).astype(np.float32) @ words.T).argmax(1)
            for rows in np.array_split(valid, max(1, len(valid) // 4096))
        ]
    )
    named = float((nearest == index.box_concepts[valid]).mean()) if len(valid) else None
    held = open_index(val)
    column = open_column(val, "priors/clip", index_digest=held.digest)
    report = existence_report(
        column.all(),
        oracle_presence(held),
        {"scored": held.rows("base", "novel")},
        rho=config.prior.rho,
        limit=config.prior.limit,
        valid=column.valid_all(),
    )
    return {"crops_named": named, "priors_ap": report["scored"].ap}
