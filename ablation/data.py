"""Data of an ablation: named data sets or shapeworld, a teacher's columns, and the strength of a teacher."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from cckt.ablation.plan import AblationPlan
from cckt.cache_builder.base.constants import CHOOSE
from cckt.cache_builder.base.disk_faults import require_room
from cckt.cache_builder.base.errors import UserError, counted
from cckt.cache_builder.base.progress import Progress
from cckt.cache_builder.columns.clip_priors import cache_clip_priors
from cckt.cache_builder.columns.crops import cache_crops
from cckt.cache_builder.columns.images import cache_images
from cckt.cache_builder.columns.nouns.cache import cache_nouns
from cckt.cache_builder.columns.proposals import cache_proposals
from cckt.cache_builder.columns.text import cache_text
from cckt.cache_builder.index import copy_index, open_index
from cckt.cache_builder.presence import known_pairs, oracle_presence
from cckt.cache_builder.proposals import Selection
from cckt.cache_builder.quality.existence import existence_report
from cckt.cache_builder.store import open_column
from cckt.cache_builder.teacher.clip import Teacher, load_teacher
from cckt.detector.config.config import Config
from cckt.detector.inference.region_proposals import RunProposer
from cckt.shapeworld.dataset import PHOTO_BYTES, make_dataset

TRAIN_SEED, HELD_OUT_SEED = 1, 77
"""Photos of the quickstart to train on; held-out photos on which no choice was made."""
ASK = 3000
"""Proposals that the multimodal LLM names; the teacher chooses among these names for all proposals."""
COMPARED_ROWS = 4096
"""Crops compared with the text embeddings at once."""
Announce = Callable[[str], None]
"""Called with a line before each run or stage."""


def folders(
    plan: AblationPlan, announce: Announce, progress: Progress, *, with_columns: bool = True
) -> tuple[Path, Path]:
    """Return the data sets to train on and to evaluate on; without names, render shapeworld first."""
    if plan.train is not None and plan.val is not None:
        return plan.train, plan.val
    if plan.train is not None or plan.val is not None:
        raise UserError("only one data set is named; give both --train and --val.")
    if not plan.recipe.startswith("shapeworld"):
        raise UserError(f"--recipe {plan.recipe} needs your own data; give --train FOLDER and --val FOLDER.")
    train_data, val = plan.out / "train", plan.out / "held-out"
    rendered = [(train_data, plan.photos), (val, plan.held_out)]
    missing = [photos for folder, photos in rendered if not (folder / "index" / "index.json").is_file()]
    require_room(plan.out, sum(missing) * PHOTO_BYTES)  # of both, before the first is rendered
    announce(f"shapeworld: {counted(plan.photos, 'photo')} to train on, {plan.held_out} to evaluate on")
    for folder, photos, seed, keep in (
        (train_data, plan.photos, TRAIN_SEED, "base"),
        (val, plan.held_out, HELD_OUT_SEED, "all"),
    ):
        if not (folder / "index" / "index.json").is_file():
            make_dataset(folder, photos, seed, keep=keep, progress=progress)
        found = len(open_index(folder))
        if found != photos:
            raise UserError(
                f"--out {plan.out}: found {counted(found, 'photo')} in {folder.name}, expected {photos}; "
                "name another "
                f"folder, or pass {'--photos' if folder == train_data else '--held-out'} {found}."
            )
    if with_columns:
        configs = plan.configs()
        teacher = load_teacher("shapeworld", device=configs[""].train.device)
        columns(train_data, val, teacher, configs.values(), progress)
    return train_data, val


def columns(
    train_data: Path, val: Path, teacher: Teacher, configs: Iterable[Config], progress: Progress
) -> None:
    """Cache the columns that the runs of some configs read, apart from proposals and theirs; keep finished
    ones, refuse those of another teacher."""
    read = list(configs)
    cache_text(train_data, teacher, progress=progress)
    cache_crops(train_data, teacher, progress=progress)
    cache_text(val, teacher, progress=progress)
    trained_with_priors = any(config.trains_on_priors for config in read)
    for folder in (train_data, val) if trained_with_priors else (val,):
        cache_images(folder, teacher, progress=progress)
        cache_clip_priors(folder, progress=progress)
    if not trained_with_priors and any(config.data.proposals for config in read):
        cache_images(train_data, teacher, progress=progress)


def region_columns(
    data: Path, proposer: Path, config: Config, plan: AblationPlan, teacher: Teacher, progress: Progress
) -> None:
    """Cache proposals of a data set, their crops and their nouns.

    proposer: run that proposes regions. config: says their least side, and the device.
    """
    device = config.train.device
    side = max(1.0, config.data.min_proposal_side)  # photos of shapeworld are not resized
    selection = Selection(plan.top, min_side=side)
    cache_proposals(data, RunProposer(proposer, device), selection=selection, progress=progress)
    cache_crops(data, teacher, of="proposals", progress=progress)
    words = plan.nouns_from
    cache_nouns(
        data,
        nouns_from=words,
        choose=CHOOSE if words is not None else "teacher",
        ask=None if words is not None else ASK,
        teacher=teacher,
        device=device,
        progress=progress,
    )


def teacher_folders(
    plan: AblationPlan, teacher: str, train_data: Path, val: Path, progress: Progress
) -> tuple[Path, Path]:
    """Return data set folders for one teacher: the same tables and photos, with its columns."""
    place = plan.out / "teachers" / label(teacher)
    folders = (place / "train", place / "val")
    for source, folder in zip((train_data, val), folders, strict=True):
        copy_index(open_index(source), folder)
    configs = plan.configs()
    loaded = load_teacher(teacher, device=configs[""].train.device)
    columns(*folders, loaded, configs.values(), progress)
    return folders


def label(teacher: str) -> str:
    """Return a teacher's name as a folder name; of a local folder, its last part."""
    short = Path(teacher.removeprefix("local-dir:")).name if teacher.startswith("local-dir:") else teacher
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", short)


def strength(train_data: Path, val: Path, config: Config) -> dict[str, Any]:
    """Return how strong a teacher is, in [0, 1], without a detector.

    crops_named: share of training crops whose nearest text embedding, of all concepts, is that of their own
    concept. priors_ap: mean average precision of ranking the images of `val` by its priors.
    """
    index = open_index(train_data)
    text, crops = (
        open_column(train_data, name, index_digest=index.digest, prove=True) for name in ("text", "crops")
    )
    valid = np.flatnonzero(crops.valid_all())
    words = text.all()
    nearest = np.concatenate(
        [
            (crops.take(rows).astype(np.float32) @ words.T).argmax(1)
            for rows in np.array_split(valid, max(1, len(valid) // COMPARED_ROWS))
        ]
    )
    named = float((nearest == index.box_concepts[valid]).mean()) if len(valid) else None
    held_out = open_index(val)
    priors = open_column(val, "priors/clip", index_digest=held_out.digest, prove=True)
    report = existence_report(
        priors.all(),
        oracle_presence(held_out),
        {"scored": held_out.rows("base", "novel")},
        rho=config.prior.rho,
        limit=config.prior.limit,
        valid=priors.valid_all(),
        known=known_pairs(held_out),
    )
    return {"crops_named": named, "priors_ap": report["scored"].ap}
