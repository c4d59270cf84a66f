"""What a report says of one run: figures, curves, errors, confusion, priors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cckt.cache_builder.base.atomic_files import plain, write_json
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.progress import Progress
from cckt.cache_builder.store import column_of, open_column, teacher_of
from cckt.detector.config.config import PriorConfig
from cckt.detector.evaluation.detections import Detections
from cckt.detector.evaluation.engines import AREAS, Curves
from cckt.detector.evaluation.evaluate import chosen_variant, evaluate_run, made_of, under
from cckt.detector.evaluation.figures import Measured, measure
from cckt.detector.evaluation.matches import best_f1
from cckt.detector.evaluation.metrics import Metrics, label_of
from cckt.detector.evaluation.protocols import Protocol
from cckt.detector.evaluation.scene import Scene, open_scene
from cckt.detector.evaluation.truth import Truth
from cckt.detector.report.confusion import confusion
from cckt.detector.report.errors import classify, costs
from cckt.detector.report.log import read_log
from cckt.detector.report.priors import prior_quality, sweep
from cckt.detector.runs.run_folder import Facts, evaluation_weights, read_json, run_config


@dataclass(frozen=True)
class Answers:
    """What a run said on a data set: everything a report is made of but its photos."""

    scene: Scene
    measured: Measured
    threshold: float
    page: dict[str, Any]
    """The run's part of the page, plain values."""


@dataclass(frozen=True)
class Choices:
    """How runs are asked; None leaves it to each run's config."""

    protocol: str = "auto"
    priors: str | None = None
    classification: str | None = None
    device: str = "auto"
    resamples: int = 300
    with_sweep: bool = True


def answers_of(run: Path, data: Path, choices: Choices, progress: Progress) -> Answers:
    """Score a run, or take up the evaluation it has, and look into it.

    Raises UserError for a run, data set or column that is missing or does not fit the others.
    """
    config, facts = run_config(run), Facts.load(run)
    scene = open_scene(data, facts, choices.protocol)
    prior = chosen_variant(config, choices.priors, choices.classification).prior
    made = made_of(run, scene, prior)
    folder = _evaluation(run, data, scene, choices, made, progress)
    known = measure(scene.index, Detections.from_json(folder / "detections.json"), scene.protocol)
    truth, found, matches = known.truth, known.found, known.matches
    threshold = best_f1(truth, matches)["score"]
    swept = _swept(run, folder, scene, prior, choices, made, progress) if choices.with_sweep else None
    page = {
        "name": run.resolve().name,
        "folder": str(run),
        "headline": _headline(known.with_intervals(choices.resamples), scene.protocol),
        "log": read_log(run),
        "curves": _pr(truth, known.curves),
        "sizes": _sizes(truth, known.curves),
        "concepts": [plain(asdict(one)) for one in known.metrics.per_concept],
        "errors": costs(truth, matches, classify(truth, matches)),
        "confusion": [asdict(one) for one in confusion(truth, found, scene.text.numpy())],
        "priors": prior_quality(scene, prior),
        "sweep": swept,
        "threshold": threshold,
        "config": _flat(config.to_dict()),
        "digests": _digests(run, facts, scene, folder),
    }
    return Answers(scene, known, threshold, page)


def _evaluation(
    run: Path, data: Path, scene: Scene, choices: Choices, made: dict[str, str], progress: Progress
) -> Path:
    """The folder of a finished evaluation of just these weights, columns and settings, or a new one."""
    config = run_config(run)
    variant = under(scene.protocol, chosen_variant(config, choices.priors, choices.classification))
    name = variant.name
    wanted = {
        "made_of": made,
        "prior": asdict(variant.prior),
        "inference": asdict(variant.inference),
    }
    named = "" if choices.protocol == "auto" else f"-{choices.protocol}"
    folder = run / f"eval-{Path(data).resolve().name}-{name}{named}"
    card = folder / "metrics.json"
    if card.is_file() and (folder / "detections.json").is_file():
        known = read_json(card, "figures written by cckt eval").get("figures", {})
        if plain(wanted).items() <= known.items():
            return folder
    evaluate_run(
        run,
        data,
        priors=choices.priors,
        classification=choices.classification,
        protocol=choices.protocol,
        device=choices.device,
        out=folder,
        progress=progress,
    )
    return folder


def _swept(
    run: Path,
    folder: Path,
    scene: Scene,
    prior: PriorConfig,
    choices: Choices,
    made: dict[str, str],
    progress: Progress,
) -> dict[str, Any] | None:
    """rho x L, kept beside the evaluation it belongs to."""
    path = folder / "sweep.json"
    asked = {"prior": asdict(prior), "inference": asdict(run_config(run).inference), "made_of": made}
    if path.is_file():
        kept: dict[str, Any] = read_json(path, "a sweep written by cckt report")
        if asked.items() <= kept.items():
            return {name: one for name, one in kept.items() if name not in asked}
    try:
        swept = sweep(run, scene, prior, choices.device, progress)
    except UserError as fault:
        progress.note(f"no sweep of rho and L: {fault}")
        return None
    if swept is not None:
        write_json(path, swept | asked)
    return swept


def _headline(metrics: Metrics, protocol: Protocol) -> list[dict[str, Any]]:
    answer = []
    for name in protocol.headline:
        interval = metrics.intervals.get(name)
        ends = {"low": interval.low, "high": interval.high} if interval else {"low": None, "high": None}
        value = {"key": name, "label": label_of(name, protocol), "value": getattr(metrics, name), **ends}
        answer.append(plain(value))
    return answer


def _pr(truth: Truth, table: Curves) -> dict[str, list[float] | None]:
    """Precision at 101 recalls, mean over the concepts of the split that have a box, at IoU 0.5 and 0.75."""
    answer: dict[str, list[float] | None] = {}
    for split in ("base", "novel"):
        for word, threshold in (("50", 0), ("75", 5)):
            part = table.precision[threshold][:, truth.in_split(split), 0, -1]
            part = part[:, (part > -1).all(0)]
            answer[split + word] = part.mean(1).round(4).tolist() if part.shape[1] else None
    return answer


def _sizes(truth: Truth, table: Curves) -> list[dict[str, Any]]:
    rows = []
    for split in ("base", "novel"):
        for number, area in enumerate(AREAS[1:], 1):
            part = table.precision[:, :, truth.in_split(split), number, -1]
            known = part[part > -1]
            rows.append({"split": split, "size": area, "ap": float(known.mean()) if known.size else None})
    return rows


def _digests(run: Path, facts: Facts, scene: Scene, folder: Path) -> list[tuple[str, str]]:
    teacher = facts.taught_by or {}
    text = teacher_of(_text_recipe(scene)) or {}
    rows = [
        ("run", str(run)),
        ("weights", evaluation_weights(run).name),
        ("evaluation", str(folder)),
        ("index trained on", facts.index_digest),
        ("index scored on", scene.index.digest),
        ("teacher", str(teacher.get("name", "an imported table"))),
        ("teacher's weights", str(teacher.get("weight_digest", "–"))),
        ("text of the data set by", str(text.get("name", "an imported table"))),
        ("base concepts trained on", str(facts.n_classes)),
    ]
    try:
        versions = json.loads((run / "versions.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        versions = {}
    rows += [(str(name), str(value)) for name, value in versions.items() if isinstance(value, str | int)]
    return rows


def _text_recipe(scene: Scene) -> Mapping[str, Any]:
    """How the data set's text column was made."""
    recipe: Mapping[str, Any] = open_column(
        scene.index.folder, column_of(scene.index.folder, "text", scene.teacher)
    ).manifest.spec.recipe
    return recipe


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, str]:
    answer: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            answer |= _flat(value, f"{prefix}{name}.")
        else:
            shown = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
            answer[prefix + name] = shown
    return answer
