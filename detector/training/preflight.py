"""Checks before the first step of a run. Each message names what to change."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cckt.cache_builder.base.errors import UserError, counted
from cckt.cache_builder.index import Index, novel_boxes, open_index, pseudo_makers, pseudo_note
from cckt.cache_builder.photos import check_photos as require_readable
from cckt.cache_builder.proposals import (
    Provenance,
    find_leak,
    is_guarded,
    provenances_of,
    require_no_leak,
)
from cckt.cache_builder.proposals.table import BOXES
from cckt.cache_builder.store import (
    Column,
    ColumnName,
    Origin,
    column_of,
    list_columns,
    open_column,
    repair_command,
    require_same_teacher,
    teacher_of,
)
from cckt.cache_builder.vocabulary import Vocabulary, normalise_name
from cckt.detector.config.checks import require
from cckt.detector.config.config import Config
from cckt.detector.data.dataset import TrainingPhotos, used_images
from cckt.detector.data.gpu_decode import gpu_decoder
from cckt.detector.evaluation.evaluation_set import EvaluationSet, open_evaluation_set
from cckt.detector.evaluation.metrics import FIGURES
from cckt.detector.losses.objective import check_terms
from cckt.detector.runs.run_folder import Facts
from cckt.detector.students.build import student_class
from cckt.detector.students.precision import emulation_note

CHECKED_PHOTOS = 8
"""Number of photo files whose existence is checked."""


@dataclass(frozen=True)
class Ingredients:
    """The inputs of a run, opened and checked."""

    photos: TrainingPhotos
    text: Tensor
    """(C, D) float32 unit: the base concepts, in ascending concept row."""
    facts: Facts


def gather(config: Config, data: Path) -> Ingredients:
    """Open and check the data set of a run.

    Raises UserError for a term that lacks a head of the student, scores of a class head that nothing trains,
    an index without photos or base concepts, boxes of other than base concepts (the concept of every box is
    read), proposals or nouns whose maker saw novel classes, missing photo files, and columns that are
    missing, unfinished, made for another index, or made by different teachers.
    """
    check_terms(config)
    scored_by = config.inference.classification
    require(
        scored_by != "head" or config.loss.loss_class > 0,
        "inference.classification",
        scored_by,
        "similarity or fusion while loss.loss_class is 0, as nothing trains the class head",
    )
    index = open_index(data)
    check_leak(index)
    check_used(config, index)
    check_photos(index)
    check_proposals(config, data, index)
    check_pseudo(config, index)
    label = config.data.teacher
    text = open_column(data, column_of(data, "text", label), index_digest=index.digest, prove=True)
    photos = TrainingPhotos(data, config)
    for source in photos.rows.values():
        for column in source.columns:
            require_no_leak(data, index, column.manifest.spec.name, config.recipe)
            check_teachers(data, text, column)
    recipes = {name: source.recipe for name, source in photos.rows.items()}
    base = photos.base_rows
    facts = Facts(
        embedding_dim=text.width,
        n_classes=len(base),
        names=[index.concepts[row].name for row in base],
        synonyms=own_synonyms(index.concepts, base),
        category_ids=index.concepts.category_ids[base].tolist(),
        index_digest=index.digest,
        text_recipe=dict(text.manifest.spec.recipe),
        crops_recipe=recipes.pop("crop", {}),
        rows_recipes=recipes,
        teacher=label,
        priors_recipe={} if photos.priors is None else photos.priors.recipe,
        pseudo=pseudo_note(index),
        made_base=list((index.card.get("pseudo") or {}).get("made_base", [])),
        learned_from=[
            one.to_json()
            for one in dict.fromkeys([*makers_of_boxes(index), *makers_of_proposals(config, data, photos)])
        ],
    )
    return Ingredients(photos, torch.from_numpy(text.take(base).astype(np.float32)), facts)


def own_synonyms(concepts: Vocabulary, rows: NDArray[np.int64]) -> list[list[str]]:
    """Return the synonyms of the concepts of `rows`, without those that another concept has as a name."""
    owners: dict[str, set[int]] = {}
    for row, concept in enumerate(concepts):
        for name in concept.every_name:
            owners.setdefault(normalise_name(name), set()).add(row)
    return [
        [name for name in concepts[int(row)].synonyms if owners[normalise_name(name)] == {int(row)}]
        for row in rows
    ]


def check_used(config: Config, index: Index) -> None:
    """Raise UserError if nothing can teach the detector, neither a box nor a proposal, or no photo is left to
    train on (`data.drop_empty_photos`)."""
    if not len(index.box_images) and not config.data.proposals:
        raise UserError(
            f"{index.folder}: found no box, expected some to learn from; index the photos with "
            "--annotations, or train with a recipe that learns from proposals, such as --recipe "
            "hdovd-coco-fasterrcnn-r50."
        )
    if not len(used_images(index, config.data)):
        raise UserError(
            f"{index.folder}: found no photo with a box of a base concept, expected at least one with "
            "data.drop_empty_photos=true; add --set data.drop_empty_photos=false, or check --split."
        )


def check_leak(index: Index) -> None:
    """Raise UserError unless the index has photos and base concepts, and only boxes of base concepts.

    The concept of every box is read.
    """
    if not len(index.concepts.rows("base")):
        raise UserError(
            f"{index.folder}: found no base concept, expected at least one; build the index again with "
            "another --split."
        )
    if not len(index):
        raise UserError(
            f"{index.folder}: found an index without photos, expected at least one; build it again with "
            "annotations that list photos."
        )
    leaked = novel_boxes(index)
    if leaked:
        raise UserError(
            f"{index.folder}: found {counted(leaked, 'box', 'boxes')} of concepts that are not base, "
            "expected none in training; "
            "build the index again with --keep base."
        )


def check_proposals(config: Config, data: Path, index: Index) -> None:
    """Raise UserError if the maker of the proposals saw novel classes, before other columns are missed."""
    boxes = str(ColumnName(BOXES, of=config.data.proposals_name))
    if config.data.proposals and boxes in list_columns(data):
        require_no_leak(data, index, boxes, config.recipe)


def check_pseudo(config: Config, index: Index) -> None:
    """Raise UserError if boxes were found by a run that learned from a maker that may have seen novel
    classes."""
    for maker in makers_of_boxes(index) if is_guarded(index, config.recipe) else ():
        leak = find_leak(maker, index)
        if leak:
            raise UserError(
                f"{index.folder}: {pseudo_note(index)}, and this run learned from {maker}, which {leak}, "
                "expected a run that never saw them under an open-vocabulary protocol; make the data set "
                "again with cckt pseudo and another run."
            )


def makers_of_boxes(index: Index) -> list[Provenance]:
    """Return the makers that the runs behind an index's pseudo boxes learned from."""
    return [Provenance.from_recipe({"provenance": one}) for one in pseudo_makers(index)]


def makers_of_proposals(config: Config, data: Path, photos: TrainingPhotos) -> list[Provenance]:
    """Return the makers of the proposals and nouns that training reads, without repetition."""
    names = [column.manifest.spec.name for source in photos.rows.values() for column in source.columns]
    boxes = str(ColumnName(BOXES, of=config.data.proposals_name))
    if config.data.proposals and boxes in list_columns(data):
        names.append(boxes)
    return list(dict.fromkeys(maker for name in names for maker in provenances_of(data, name).values()))


def check_photos(index: Index) -> None:
    """Raise UserError if no photo can be read, or none of a few files exists because the folder was moved."""
    rows = np.unique(np.linspace(0, len(index) - 1, CHECKED_PHOTOS).astype(int))
    missing = [path for row in rows if not (path := index.photo_path(row)).is_file()]
    if len(missing) == len(rows):
        raise UserError(
            f"{missing[0]}: no such file, and no other of {len(rows)} checked photos exists; build the index "
            f"of {index.folder} again with the --images folder that holds them."
        )
    require_readable(index)


def check_teachers(data: Path, text: Column, other: Column) -> None:
    """Raise UserError unless two columns are of one teacher; otherwise their cosines are meaningless."""
    name, recipe = other.manifest.spec.name, other.manifest.spec.recipe
    teacher = teacher_of(text.manifest.spec.recipe) or {}
    made_by = {**(teacher_of(recipe) or {}), "name": teacher.get("name") or "NAME"}
    wanted = {**recipe, "import": None, "teacher": made_by}
    step = f"make it again with {repair_command(str(data), name, wanted)} --overwrite"
    first, second = Origin.of(other, f"{data}: column {name}"), Origin.of(text)
    require_same_teacher(first, second, step=step, imported=True)


def check_validation(config: Config, data: Path, facts: Facts | None) -> EvaluationSet:
    """Return the opened data set that a run is evaluated on.

    Called before training, so that a mistake does not show hours later. facts: of the run; None if unknown.
    Raises UserError for missing text, priors or photos.
    """
    scene = open_evaluation_set(data, facts)
    if config.guidance.enabled and config.prior.cached:
        scene.priors_column(config.prior.source)
    check_photos(scene.index)
    return scene


def check_machine(config: Config, device: torch.device) -> list[str]:
    """Return notes on what the device lacks; raise UserError if an option demands it (nvJPEG, a kernel)."""
    if config.data.decode == "cuda":
        gpu_decoder()
    return emulation_note(config.train.precision, device) + student_class(config).check_device(config, device)


def check_metric(config: Config) -> None:
    """Raise UserError unless `train.best_metric` is a figure of the evaluation."""
    found, known = config.train.best_metric, sorted(FIGURES)
    require(found in known, "train.best_metric", found, f"one of {', '.join(known)}")


def check_batch(config: Config, ranks: int) -> None:
    """Raise UserError unless the batch divides evenly over ranks and accumulated parts."""
    parts = config.train.accumulate * ranks
    if config.train.batch % parts:
        raise UserError(
            f"option train.batch: found {config.train.batch}, expected a multiple of {parts} ({ranks} ranks "
            f"x train.accumulate {config.train.accumulate}); use --set train.batch={parts}."
        )
