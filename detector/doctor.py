"""Checks of the online half: a recipe, whether data fit it, and a run. Each returns findings.

The checks are the trainer's and the evaluator's own (`preflight`, `scene`, `network`), asked before hours are
spent; nothing here knows a rule of its own but the one on unseen concepts.
"""

from __future__ import annotations

from pathlib import Path

from cckt.cache_builder import doctor as offline
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.doctor import Finding
from cckt.cache_builder.index import open_index
from cckt.cache_builder.vocabulary import normalise_name
from cckt.detector.config.config import Config
from cckt.detector.data.schedule import Schedule
from cckt.detector.inference.inference_model import load_inference_model
from cckt.detector.runs.run_folder import Facts, newest_checkpoint, run_config
from cckt.detector.students.deformable_detr.model import CCKTDetector
from cckt.detector.training.preflight import check_batch, check_validation, gather


def examine(
    asked: Config | None = None,
    *,
    data: Path | None = None,
    val: Path | None = None,
    run: Path | None = None,
    mllm_model: str | None = None,
) -> list[Finding]:
    """All that can be said before hours are spent, each finding once: of the installation, the data sets,
    their teachers, the leak, and whether the recipe `asked` for, or else the run's, fits them.
    """
    findings = [*offline.check_installation(), *offline.check_machine()]
    folders = dict.fromkeys(folder for folder in (data, val) if folder)
    for folder in folders:
        findings += offline.check_data(folder)
    findings += offline.check_teachers(folders)
    if data is not None:
        findings += offline.check_leak(data)
    config, facts = asked, None
    if run is not None:
        found, facts = check_run(run)
        findings += found
        config = config or (run_config(run) if facts else None)
    if asked is not None:
        findings += check_recipe(asked)
    if data is not None and config is not None:
        found, of_data = check_training(config, data)
        findings, facts = findings + found, facts or of_data
    if val is not None and config is not None:
        findings += check_evaluation(config, val, facts)
    if val is not None and facts is not None:
        findings += check_unseen(facts, val)
    if mllm_model is not None:
        findings += offline.check_mllm(mllm_model)
    return list(dict.fromkeys(findings))


def check_recipe(config: Config) -> list[Finding]:
    """The student of a recipe can be built, with the pretrained weights it asks for."""
    subject = f"recipe {config.recipe}"
    try:
        model = CCKTDetector(config.model, 512, 48, pretrained=True)
        note = ""
    except UserError as error:
        return [Finding("bad", subject, str(error))]
    except Exception as fault:  # timm's downloader has its own kinds of complaint
        model = CCKTDetector(config.model, 512, 48, pretrained=False)
        note = (str(fault).strip() or type(fault).__name__).splitlines()[0]
    millions = sum(value.numel() for value in model.parameters()) / 1e6
    train = config.train
    told = (
        f"{config.model.backbone}, {millions:.1f}M parameters, {config.model.queries} queries, "
        f"{train.epochs} epochs of {train.batch} photos a step in {train.precision}"
    )
    if note:
        told = (
            f"{told}; the backbone's pretrained weights are not to be had ({note}): run once with a network, "
            "or --set model.backbone_weights=FILE.safetensors"
        )
    return [Finding("warn" if note else "good", subject, told)]


def check_training(config: Config, data: Path) -> tuple[list[Finding], Facts | None]:
    """Everything `cckt train` looks for on its training data, and the facts of the run that it would be."""
    subject = f"training on {data}"
    try:
        check_batch(config, 1)
        ingredients = gather(config, data)
    except UserError as error:
        return [Finding("bad", subject, str(error))], None
    facts, photos = ingredients.facts, len(ingredients.photos)
    steps = Schedule(photos, config.train.seed, config.train.batch).steps_per_epoch * config.train.epochs
    told = (
        f"fits: {photos} photos, {facts.n_classes} base concepts, {facts.embedding_dim} wide, {steps} steps"
    )
    return [Finding("good", subject, told)], facts


def check_evaluation(config: Config, data: Path, facts: Facts | None) -> list[Finding]:
    """A data set can be evaluated on by the run of `facts`; None: of a run that cannot be made yet."""
    subject = f"evaluation on {data}"
    try:
        scene = check_validation(config, data, facts)
    except UserError as error:
        return [Finding("bad", subject, str(error))]
    boxes = int((~scene.index.iscrowd).sum())
    told = f"fits: {len(scene.index)} photos, {boxes} boxes, {len(scene.vocabulary)} concepts"
    findings = [Finding("good", subject, f"{told}, priors {config.prior.source}")]
    if scene.index.keep == "base" and len(scene.index.rows("novel")):
        told = "was built with --keep base: no novel box is there to be found; build it with --keep all"
        findings.append(Finding("bad", subject, told))
    return findings


def check_unseen(facts: Facts, data: Path) -> list[Finding]:
    """No concept that a data set calls novel is among those that a run was trained on, by id or by name."""
    try:
        index = open_index(data)
    except UserError as error:
        return [Finding("bad", "leak", str(error))]
    trained = facts.annotated
    novel = [index.concepts[int(row)] for row in index.rows("novel")]
    seen = [
        concept.name
        for concept in novel
        if trained & {normalise_name(name) for name in (concept.name, *concept.synonyms)}
    ]
    if seen:
        told = (
            f"{data} calls {', '.join(seen[:5])} novel, but the run is trained on {len(seen)} such concepts"
        )
        return [Finding("bad", "leak", f"{told}; give both data sets one --split")]
    told = f"none of the {len(novel)} novel concepts of {data} is among the {len(trained)} trained on"
    return [Finding("good", "leak", told)]


def check_run(run: Path) -> tuple[list[Finding], Facts | None]:
    """A run folder: weights that fit its config, whole checkpoints, and what it learnt from."""
    subject = str(run)
    try:
        network, facts = load_inference_model(run, "cpu")
    except UserError as error:
        return [Finding("bad", subject, str(error))], None
    newest, torn = newest_checkpoint(run)
    learnt = (facts.taught_by or {}).get("name", "an imported table")
    told = (
        f"recipe {network.config.recipe}, {facts.n_classes} base concepts, learnt from {learnt}; weights fit"
    )
    findings = [Finding("good", subject, told)]
    findings += [Finding("warn", subject, line) for line in torn]
    if newest is not None and not (run / "model.safetensors").is_file():
        findings.append(Finding("warn", subject, f"not finished: {newest.name} is the newest; resume it"))
    return findings, facts
