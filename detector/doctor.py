"""Check a recipe, its data sets and a run before a long job. Every check returns findings.

Training and evaluation make the same checks themselves (`training/preflight.py`,
`evaluation/evaluation_set.py`, `inference/inference_model.py`). Only the check that novel concepts were not
trained on (`check_unseen`) exists just here.
"""

from __future__ import annotations

from pathlib import Path

import torch

from cckt.cache_builder.base.device import pick_device
from cckt.cache_builder.base.errors import UserError, counted, listed, quoted
from cckt.cache_builder.doctor.data import check_data, check_leak, check_proposals
from cckt.cache_builder.doctor.finding import Finding
from cckt.cache_builder.doctor.machine import check_installation, check_machine
from cckt.cache_builder.doctor.models import check_mllm, check_teachers
from cckt.cache_builder.index import open_index, shared_note
from cckt.cache_builder.vocabulary import normalise_name
from cckt.detector.config.config import Config
from cckt.detector.data.schedule import Schedule
from cckt.detector.inference.inference_model import load_inference_model
from cckt.detector.runs.checkpoints import newest_checkpoint
from cckt.detector.runs.file_digests import DIGESTS_FILE, accept, recorded_problems
from cckt.detector.runs.run_folder import Facts, run_config
from cckt.detector.students.build import build_student
from cckt.detector.students.precision import emulation_note
from cckt.detector.training.forecast import warnings
from cckt.detector.training.length import seconds_per_step
from cckt.detector.training.preflight import check_batch, check_validation, gather
from cckt.detector.training.process import memory_mib

LONG_HOURS = 24.0
"""Hours of a training from which `check_time` warns."""


def run_checks(
    config: Config | None = None,
    *,
    data: Path | None = None,
    val: Path | None = None,
    run: Path | None = None,
    mllm_model: str | None = None,
    timed: bool = False,
) -> list[Finding]:
    """Check the installation, the data sets and their teachers, leaks, and whether recipe and data fit.

    config: the recipe; default that of `run`. data, val: data sets for training and evaluation. timed: also
    train a few steps, and tell what the run takes. Returns each finding once.
    """
    findings = [*check_installation(), *check_machine()]
    folders = dict.fromkeys(folder for folder in (data, val) if folder)
    for folder in folders:
        findings += check_data(folder)
    findings += check_teachers(folders)
    if data is not None:
        findings += check_leak(data)
        findings += check_proposals(data, config.recipe if config else "")
    recipe, facts = config, None
    if run is not None:
        found, facts = check_run(run)
        findings += found
        config = config or (run_config(run) if facts else None)
    if recipe is not None:
        findings += check_recipe(recipe)
    if data is not None and config is not None:
        found, data_facts = check_training(config, data)
        findings, facts = findings + found, facts or data_facts
        if timed and data_facts is not None:
            findings.append(check_time(config, data))
    if val is not None and config is not None:
        findings += check_evaluation(config, val, facts)
    if val is not None and facts is not None:
        findings += check_unseen(facts, val)
    if data is not None and val is not None:
        findings += check_shared(data, val)
    if mllm_model is not None:
        findings += check_mllm(mllm_model)
    return list(dict.fromkeys(findings))


def check_recipe(config: Config) -> list[Finding]:
    """Check that the student of a recipe can be built with its pretrained weights."""
    subject = f"recipe {config.recipe}"
    try:
        model = build_student(config, 512)
        note = ""
    except UserError as error:
        return [Finding("bad", subject, str(error))]
    except Exception as error:  # a failed download raises various errors
        model = build_student(config, 512, pretrained=False)
        note = (str(error).strip() or type(error).__name__).splitlines()[0]
    millions = sum(value.numel() for value in model.parameters()) / 1e6
    train = config.train
    message = (
        f"{config.model.backbone}, {millions:.1f}M parameters, {config.model.queries} queries, "
        f"{counted(train.epochs, 'epoch')}, {counted(train.batch, 'photo')} per step, {train.precision}"
    )
    message += "".join(f"; {one}" for one in emulation_note(train.precision, pick_device(train.device)))
    if note:
        message += (
            f"; the pretrained weights of the backbone cannot be loaded ({note}): run once with network "
            "access or add --set model.backbone_weights=FILE.safetensors"
        )
    return [Finding("warn" if note else "good", subject, message)]


def check_training(config: Config, data: Path) -> tuple[list[Finding], Facts | None]:
    """Check the training data as `cckt train` does; also return the facts of the run, None on failure."""
    subject = f"training on {data}"
    try:
        check_batch(config, 1)
        ingredients = gather(config, data)
    except UserError as error:
        return [Finding("bad", subject, str(error))], None
    facts, photos = ingredients.facts, len(ingredients.photos)
    steps = Schedule(photos, config.train.seed, config.train.batch).steps_per_epoch * config.train.epochs
    message = (
        f"fits: {counted(photos, 'photo')}, {counted(facts.n_classes, 'base concept')}, embeddings of width "
        f"{facts.embedding_dim}, {counted(steps, 'step')}"
    )
    findings = [Finding("good", subject, message)]
    findings += [
        Finding("warn", subject, warning) for warning in warnings(config, ingredients, open_index(data))
    ]
    return findings, facts


def check_time(config: Config, data: Path) -> Finding:
    """Train a few steps in a temporary folder; tell seconds per step, hours in all and peak memory."""
    subject = f"training on {data}"
    try:
        seconds = seconds_per_step(config, data)
    except UserError as error:
        return Finding("bad", subject, str(error))
    photos = len(open_index(data))
    steps = Schedule(photos, config.train.seed, config.train.batch).steps_per_epoch * config.train.epochs
    hours = seconds * steps / 3600
    device = torch.device("cuda" if torch.cuda.is_available() and config.train.device != "cpu" else "cpu")
    message = (
        f"{seconds:.2f} s per step on this machine, {config.train.batch / seconds:.1f} images/s; "
        f"{counted(steps, 'step takes', 'steps take')} about {hours:.1f} hours; {memory_mib(device):.0f} "
        "MiB of memory at most"
    )
    return Finding("warn" if hours > LONG_HOURS else "good", subject, message)


def check_evaluation(config: Config, data: Path, facts: Facts | None) -> list[Finding]:
    """Check that a run can be evaluated on a data set.

    facts: those of the run; None if there is no run yet.
    """
    subject = f"evaluation on {data}"
    try:
        scene = check_validation(config, data, facts)
    except UserError as error:
        return [Finding("bad", subject, str(error))]
    boxes = int((~scene.index.iscrowd).sum())
    message = (
        f"fits: {counted(len(scene.index), 'photo')}, {counted(boxes, 'box', 'boxes')}, "
        f"{counted(len(scene.vocabulary), 'concept')}"
    )
    findings = [Finding("good", subject, f"{message}, priors {config.prior.source}")]
    if scene.index.keep == "base" and len(scene.index.rows("novel")):
        message = "was built with --keep base, so it has no novel boxes; build it with --keep all"
        findings.append(Finding("bad", subject, message))
    return findings


def check_unseen(facts: Facts, data: Path) -> list[Finding]:
    """Check that no novel concept of a data set was trained on, by any of its names."""
    try:
        index = open_index(data)
    except UserError as error:
        return [Finding("bad", "leak", str(error))]
    trained = facts.annotated
    novel = [index.concepts[int(row)] for row in index.rows("novel")]
    seen = [
        concept.name for concept in novel if trained & {normalise_name(name) for name in concept.every_name}
    ]
    if seen:
        message = (
            f"the run was trained on {len(seen)} of the {len(novel)} novel concepts of {data} "
            f"({listed(seen)}); "
            "build both data sets with the same --split"
        )
        return [Finding("bad", "leak", message)]
    unseen = counted(len(novel), "novel concept")
    message = f"none of the {unseen} of {data} is among those that the run was trained on"
    return [Finding("good", "leak", message)]


def check_shared(data: Path, val: Path) -> list[Finding]:
    """Check that no photo of the data set for evaluation is trained on."""
    try:
        train_index, val_index = open_index(data), open_index(val)
    except UserError:
        return []  # `check_data` reports it
    shared = shared_note(train_index, val_index)
    if shared:
        return [Finding("warn", "photos", shared)]
    return [Finding("good", "photos", f"no photo of {val} is in {data}")]


def accept_run(run: Path) -> list[Finding]:
    """Record the files of a run and its evaluations as they are; return a finding for each that changed."""
    if not (run / "facts.json").is_file():
        raise UserError(f"{run}: no facts.json, expected a run folder made by cckt train; check the name.")
    message = "was changed or removed, and is recorded as it is now"
    folders = [run, *(card.parent for card in sorted(run.glob(f"eval-*/{DIGESTS_FILE}")))]
    return [Finding("warn", str(folder / name), message) for folder in folders for name in accept(folder)]


def check_run(run: Path) -> tuple[list[Finding], Facts | None]:
    """Check the weights and checkpoints of a run; also return its facts, None if it is not a run."""
    subject = str(run)
    try:
        network, facts = load_inference_model(run, "cpu")
    except UserError as error:
        return [Finding("bad", subject, str(error))], None
    newest, damaged = newest_checkpoint(run)
    damaged = recorded_problems(run) + damaged
    for card in run.glob(f"eval-*/{DIGESTS_FILE}"):
        try:
            damaged += recorded_problems(card.parent)
        except UserError as error:
            damaged.append(str(error))
    teacher = (facts.taught_by or {}).get("name", "an imported table")
    message = (
        f"recipe {network.config.recipe}, {counted(facts.n_classes, 'base concept')}, teacher {teacher}; the "
        "weights fit"
    )
    findings = [Finding("good", subject, message)]
    findings += [Finding("bad", subject, line) for line in damaged]
    if newest is not None and not (run / "model.safetensors").is_file():
        message = (
            f"not finished, newest checkpoint {newest.name}; continue with cckt train --resume {quoted(run)}"
        )
        findings.append(Finding("warn", subject, message))
    return findings, facts
