"""Collect the report data of one run: figures, curves, errors, confusion, priors, digests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cckt.cache_builder.base.atomic_files import plain, write_json
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.ownership import json_mark, require_ours_or_absent
from cckt.cache_builder.base.progress import Progress
from cckt.cache_builder.store import column_of, open_column, teacher_of
from cckt.detector.evaluation.coco_engines import AREAS, Curves
from cckt.detector.evaluation.detections import Detections
from cckt.detector.evaluation.evaluate import chosen_variant, evaluate_run, input_digests, limit_to_protocol
from cckt.detector.evaluation.evaluation_set import EvaluationSet, open_evaluation_set
from cckt.detector.evaluation.ground_truth import GroundTruth
from cckt.detector.evaluation.inference_loop import Variant
from cckt.detector.evaluation.match_detections import best_f1, count_novel_objects
from cckt.detector.evaluation.measure import Measurement, measure
from cckt.detector.evaluation.metrics import Metrics, figure_label
from cckt.detector.evaluation.protocols import Protocol
from cckt.detector.report.confusion import confusion
from cckt.detector.report.errors import classify, costs
from cckt.detector.report.log import read_log
from cckt.detector.report.matrix import confusion_matrix
from cckt.detector.report.priors import prior_quality, sweep_priors
from cckt.detector.runs.checkpoints import evaluation_weights
from cckt.detector.runs.file_digests import read_digests, record, recorded
from cckt.detector.runs.json_fields import as_written
from cckt.detector.runs.run_folder import Facts, read_json, run_config


@dataclass(frozen=True)
class RunAnalysis:
    """Report data of one run on one data set, without the gallery."""

    scene: EvaluationSet
    measured: Measurement
    threshold: float
    """Score of the best F1."""
    page: dict[str, Any]
    """The run's part of the page data, as values that JSON can hold."""


@dataclass(frozen=True)
class ReportOptions:
    """Options of a report; None takes the value from the config of each run."""

    protocol: str = "auto"
    priors: str | None = None
    classification: str | None = None
    device: str = "auto"
    resamples: int = 300
    sweep: bool = True


def collect(
    run: Path, data: Path, options: ReportOptions, progress: Progress, scratch: Path | None = None
) -> RunAnalysis:
    """Evaluate a run, or read an existing evaluation, and analyse the detections.

    scratch: an empty folder for a missing evaluation; None keeps it in the run folder for the next report.
    Raises UserError for a run, data set or column that is missing or does not fit the others.
    """
    config, facts = run_config(run), Facts.load(run)
    scene = open_evaluation_set(data, facts, options.protocol)
    chosen = chosen_variant(config, options.priors, options.classification)
    variant = limit_to_protocol(scene.protocol, chosen)
    made = input_digests(run, scene, variant.prior)
    folder = _evaluation(run, data, variant, options, made, progress, scratch)
    measured = measure(scene.index, Detections.from_json(folder / "detections.json"), scene.protocol)
    truth, found, matches = measured.truth, measured.found, measured.matches
    threshold = best_f1(truth, matches)["score"]
    swept = _sweep(run, folder, scene, variant, options, made, progress, scratch) if options.sweep else None
    page = {
        "name": run.resolve().name,
        "folder": str(run),
        "headline": _headline(measured.with_intervals(options.resamples, progress=progress), scene.protocol),
        "log": read_log(run),
        "curves": _precision_curves(truth, measured.curves),
        "sizes": _sizes(truth, measured.curves),
        "concepts": [plain(asdict(one)) for one in measured.metrics.per_concept],
        "errors": costs(truth, matches, classify(truth, matches)),
        "novel_objects": asdict(count_novel_objects(truth, found, threshold)),
        "confusion": [asdict(one) for one in confusion(truth, found, scene.text.numpy())],
        "matrix": confusion_matrix(truth, found, threshold),
        "priors": prior_quality(scene, variant.prior),
        "sweep": swept,
        "threshold": threshold,
        **_requests(folder),
        "config": _flat(config.to_dict()),
        "digests": _digests(run, facts, scene, folder),
    }
    return RunAnalysis(scene, measured, threshold, page)


def _evaluation(
    run: Path,
    data: Path,
    variant: Variant,
    options: ReportOptions,
    made: dict[str, str],
    progress: Progress,
    scratch: Path | None,
) -> Path:
    """Return the folder of an evaluation of these weights, columns and options; evaluate if there is none."""
    required = {
        "made_of": made,
        "prior": asdict(variant.prior),
        "inference": asdict(variant.inference),
    }
    suffix = "" if options.protocol == "auto" else f"-{options.protocol}"
    folder = run / f"eval-{Path(data).resolve().name}-{variant.name}{suffix}"
    card = folder / "metrics.json"
    if card.is_file() and (folder / "detections.json").is_file():
        with as_written(card):
            known = dict(read_json(card, "figures written by cckt eval").get("figures", {}))
        if plain(required).items() <= known.items():
            names = ("detections.json", "metrics.json")
            if not set(names) <= read_digests(folder).keys():  # a kill came first, or an earlier version
                record(folder, *names)
            return folder
    folder = scratch or folder
    evaluate_run(
        run,
        data,
        priors=options.priors,
        classification=options.classification,
        protocol=options.protocol,
        device=options.device,
        out=folder,
        progress=progress,
    )
    return folder


def _requests(folder: Path) -> dict[str, Any]:
    """Return the reliability curve and the figures of requests of an evaluation.

    [] and None if an earlier version made it.
    """
    with as_written(folder / "metrics.json"):
        known = read_json(folder / "metrics.json", "figures written by cckt eval")
        figures = dict(known.get("figures") or {})
    return {"reliability": figures.get("reliability") or [], "requests": figures.get("requests")}


def _sweep(
    run: Path,
    folder: Path,
    scene: EvaluationSet,
    variant: Variant,
    options: ReportOptions,
    made: dict[str, str],
    progress: Progress,
    scratch: Path | None,
) -> dict[str, Any] | None:
    """Return AP50 over rho and L.

    It is read from sweep.json in the folder of the evaluation, or written there unless there is a `scratch`.
    """
    path = folder / "sweep.json"
    key = {"prior": asdict(variant.prior), "inference": asdict(variant.inference), "made_of": made}
    if path.is_file():
        kept = read_json(path, "a sweep written by cckt report")
        if isinstance(kept, dict) and key.items() <= kept.items():
            return {name: one for name, one in kept.items() if name not in key}
    try:
        swept = sweep_priors(run, scene, variant, options.device, progress)
    except UserError as error:
        progress.note(f"rho and L are not varied in the report: {error}")
        return None
    if swept is not None and scratch is None:
        require_ours_or_absent(path, json_mark(*key), "a sweep written by cckt report")
        with recorded(folder, path.name):
            write_json(path, swept | key)
    return swept


def _headline(metrics: Metrics, protocol: Protocol) -> list[dict[str, Any]]:
    """Return the main figures of the protocol with their intervals."""
    rows = []
    for name in protocol.headline:
        interval = metrics.intervals.get(name)
        ends = {"low": interval.low, "high": interval.high} if interval else {"low": None, "high": None}
        value = {"key": name, "label": figure_label(name, protocol), "value": getattr(metrics, name), **ends}
        rows.append(plain(value))
    return rows


def _precision_curves(truth: GroundTruth, table: Curves) -> dict[str, list[float] | None]:
    """Return precision at 101 recalls, mean over the concepts that have a box, by split and IoU (50, 75).

    None for a split without such a concept.
    """
    curves: dict[str, list[float] | None] = {}
    for split in ("base", "novel"):
        for iou, threshold in (("50", 0), ("75", 5)):
            part = table.precision[threshold][:, truth.in_split(split), 0, -1]
            part = part[:, (part > -1).all(0)]
            curves[split + iou] = part.mean(1).round(4).tolist() if part.shape[1] else None
    return curves


def _sizes(truth: GroundTruth, table: Curves) -> list[dict[str, Any]]:
    """Return AP by split and size of the boxes; None if there is no such box."""
    rows = []
    for split in ("base", "novel"):
        for number, area in enumerate(AREAS[1:], 1):
            part = table.precision[:, :, truth.in_split(split), number, -1]
            measured = part[part > -1]
            ap = float(measured.mean()) if measured.size else None
            rows.append({"split": split, "size": area, "ap": ap})
    return rows


def _digests(run: Path, facts: Facts, scene: EvaluationSet, folder: Path) -> list[tuple[str, str]]:
    """Return names and values of everything the figures depend on, except options; software versions last."""
    teacher = facts.taught_by or {}
    text = teacher_of(_text_recipe(scene)) or {}
    rows = [
        ("run", str(run)),
        ("weights", evaluation_weights(run).name),
        ("evaluation", str(folder) if folder.is_relative_to(run) else "made for this report, not kept"),
        ("training index", facts.index_digest),
        ("evaluation index", scene.index.digest),
        ("teacher", str(teacher.get("name", "an imported table"))),
        ("weights of the teacher", str(teacher.get("weight_digest", "–"))),
        ("teacher of the text column", str(text.get("name", "an imported table"))),
        ("base concepts in training", str(facts.n_classes)),
    ]
    try:
        versions = dict(read_json(run / "versions.json", "versions written by cckt train"))
    except (UserError, TypeError, ValueError):
        versions = {}
    rows += [(str(name), str(value)) for name, value in versions.items() if isinstance(value, str | int)]
    return rows


def _text_recipe(scene: EvaluationSet) -> Mapping[str, Any]:
    """Return the recipe of the data set's text column."""
    recipe: Mapping[str, Any] = open_column(
        scene.index.folder, column_of(scene.index.folder, "text", scene.teacher)
    ).manifest.spec.recipe
    return recipe


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Return option name ("train.lr") -> value as text."""
    flat: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            shown = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
            flat[prefix + name] = shown
    return flat
