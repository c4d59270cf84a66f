"""Evaluate detections, a model in memory, or a run folder.

The three steps are also available separately: `open_evaluation_set` (the data), `infer` (detections for
several variants of priors and scoring in one pass), `evaluate_detections` (figures by the rules of the COCO
and LVIS APIs).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cckt.cache_builder.base.atomic_files import write_json
from cckt.cache_builder.base.digests import file_digest
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.progress import Progress
from cckt.cache_builder.index import Index
from cckt.detector.config.config import Config, InferenceConfig, PriorConfig, apply_overrides
from cckt.detector.config.dataclass_io import choices
from cckt.detector.evaluation.asked import (
    DRAWS,
    asked_figures,
    calibration_of,
    detections_of,
    drawn_requests,
    grouped_requests,
    headline_of_requests,
    match_requests,
    requesting,
)
from cckt.detector.evaluation.calibrate import reliability
from cckt.detector.evaluation.detections import Detections
from cckt.detector.evaluation.evaluation_set import EvaluationSet, open_evaluation_set
from cckt.detector.evaluation.inference_loop import Abandoned, InferenceResult, Variant, infer_on_ranks
from cckt.detector.evaluation.measure import measure, metrics_of_variant
from cckt.detector.evaluation.metrics import Metrics
from cckt.detector.evaluation.protocols import Protocol
from cckt.detector.evaluation.results_file import DETECTIONS_FILE, METRICS_FILE
from cckt.detector.inference.calibration import ScoreCalibration
from cckt.detector.inference.confirm import Confirmation
from cckt.detector.inference.inference_model import InferenceModel, inference_model, load_inference_model
from cckt.detector.inference.own_evaluation import calibration_of_run
from cckt.detector.inference.result_folders import require_own_evaluation
from cckt.detector.inference.stages.score_scale import ScoreScale, own_scoring
from cckt.detector.ranks.world import World, joined
from cckt.detector.runs.checkpoints import evaluation_weights
from cckt.detector.runs.file_digests import recorded
from cckt.detector.runs.run_folder import Facts, run_config
from cckt.detector.students.contract import Student


def evaluate_detections(
    index: Index,
    detections: Detections,
    *,
    engine: str = "hotcoco",
    protocol: str = "auto",
    resamples: int = 0,
    seed: int = 0,
    progress: Progress | None = None,
) -> Metrics:
    """Score detections of any detector on an index (docs/method/cckt_det.md, section 1).

    engine: "hotcoco" (fast) or "pycocotools" (reference); the figures are equal. protocol: "ov-coco",
    "ov-lvis", "coco", "objects365", "custom", or "auto", which depends on the index (see `protocol_for`).
    resamples: bootstrap resamples of the images for intervals of the headline figures; 0 for none.
    Detections of concepts that the protocol does not score are dropped. Raises UserError for ids that are not
    in the index, and for boxes that cannot be in its pixels.
    """
    known = measure(index, detections, protocol, engine)
    return replace(known.with_intervals(resamples, seed, progress), figures=known.counts())


def evaluate_model(
    model: Student,
    config: Config,
    data: Path | Index,
    facts: Facts | None = None,
    *,
    engine: str = "hotcoco",
    protocol: str = "auto",
    world: World | None = None,
    stop: Callable[[], bool] = bool,
    progress: Progress | None = None,
) -> Metrics:
    """Score a model on its current device, with the priors and the scoring of its config.

    The model is left in eval mode. data: a data-set folder (or its index) with a text column and the column
    of config.prior.source. facts: of its run, to check the teacher; None if the caller has checked it. world:
    ranks that hold the same model; they share the images, and all return the metrics. stop: called after
    every batch; when it returns True, every rank raises `Abandoned`. Raises UserError for inputs that are
    missing or do not fit.
    """
    dataset = open_evaluation_set(data, facts, protocol)
    prepared = inference_model(model, config)
    variant = limit_to_protocol(dataset.protocol, Variant("", config.prior, config.inference))
    world = world or World(0, 1, prepared.device)
    return _evaluated(world, prepared, dataset, variant, engine, 0, facts, progress, stop)[0]


def evaluate_run(
    run: Path,
    data: Path,
    *,
    priors: str | None = None,
    classification: str | None = None,
    restrict_to_present: bool | None = None,
    overrides: Sequence[str] = (),
    engine: str = "hotcoco",
    protocol: str = "auto",
    device: str = "auto",
    weights: Path | None = None,
    resamples: int = 0,
    out: Path | None = None,
    asked: int | Sequence[int] = 0,
    draws: int = DRAWS,
    confirm: Confirmation | None = None,
    progress: Progress | None = None,
) -> Metrics:
    """Score a run folder on a data set, and write detections.json and metrics.json.

    priors: "clip", "mllm", "oracle", "corrupted" or "none"; classification: "similarity", "head" or
    "product"; restrict_to_present: drop concepts that are not present. None is the run's config for each.
    overrides: options of the sections inference and prior, such as "inference.prior_weight=0.5". protocol: as
    for `evaluate_detections`; a named protocol also sets the number of detections per image. weights: a file
    of weights in place of the run's final ones. resamples: bootstrap resamples; 0 for no intervals. out: the
    folder to write; None is eval-DATA-PRIORS-CLASSIFICATION in the run folder, plus overrides and protocol if
    given. asked: also draw `draws` requests of that many words, and put precision, recall and F1 of what
    `cckt predict` would show for them under "asked" of `Metrics.figures`; 0 draws none. Several numbers give
    a list of such figures. Those of all words, dealt into requests of 8, are always under "requests".
    confirm: the teacher that scores the best boxes, as in `cckt predict --confirm`; None for none.
    `Metrics.figures` also holds the folder, the images per second and the settings.

    The vocabulary of the data set may differ from the one of training (transfer): the text column of the data
    set, made by the run's teacher, is used. Under torchrun or srun the ranks share the images, and the first
    rank writes. Raises UserError for files of somebody else in the folder, and for a run, data set or column
    that is missing or does not fit.
    """
    with joined(device) as world:
        model, facts = load_inference_model(run, str(world.device), weights)
        dataset = open_evaluation_set(data, facts, protocol)
        config = override_config(model.config, overrides)
        chosen = chosen_variant(config, priors, classification, restrict_to_present)
        variant = limit_to_protocol(dataset.protocol, chosen)
        named = "".join(f"-{one.partition('.')[2]}" for one in overrides)
        named = re.sub(r"[^\w.=-]", "_", named) + ("" if protocol == "auto" else f"-{protocol}")
        named += "" if confirm is None else f"-confirm{confirm.count}"
        out = out or run / f"eval-{Path(data).resolve().name}-{variant.name}{named}"
        require_own_evaluation(out, run)
        sizes = [one for one in ([asked] if isinstance(asked, int) else asked) if one]
        requests = _Requests(tuple(sizes), draws, _calibration(run, variant, confirm is not None))
        metrics, inferred = _evaluated(
            world,
            model,
            dataset,
            variant,
            engine,
            resamples,
            facts,
            progress,
            requests=requests,
            confirm=confirm,
        )
        digests = input_digests(run, dataset, variant.prior, weights)
        metrics = replace(
            metrics, figures=metrics.figures | {"run": str(run), "folder": str(out), "made_of": digests}
        )
        if inferred is not None:
            out.mkdir(parents=True, exist_ok=True)
            with recorded(out, DETECTIONS_FILE, METRICS_FILE):
                # The card comes first, because it marks the folder as ours if this process is killed.
                (out / DETECTIONS_FILE).unlink(missing_ok=True)
                write_json(out / METRICS_FILE, metrics.as_dict())
                inferred.detections[variant.name].to_json(out / DETECTIONS_FILE)
        world.wait()  # until the files are written
    return metrics


def _calibration(run: Path, variant: Variant, confirmed: bool) -> ScoreCalibration | None:
    """Return the calibration that `predict` would use for the scores of a variant: none of the run's own for
    scores of another kind, which stay the network's. None for a run without a calibration."""
    known = calibration_of_run(run, confirmed)
    if known is None:
        return None
    own = run_config(run)
    inference = own_scoring(replace(own, prior=variant.prior, inference=variant.inference))
    scale = ScoreScale(calibration=known, scoring=own_scoring(own)).for_scores(inference)
    return scale.calibration or ScoreCalibration.none(scale.lowest(True))


def input_digests(
    run: Path, dataset: EvaluationSet, prior: PriorConfig, weights: Path | None = None
) -> dict[str, str]:
    """Return digests of all inputs of an evaluation: weights, index and columns, but not the settings."""
    return {"weights": file_digest(weights or evaluation_weights(run)), **dataset.input_digests(prior)}


def override_config(config: Config, overrides: Sequence[str]) -> Config:
    """Return the config with overridden options of priors and scoring.

    Raises UserError for an option that is unknown or of another section, and for a value that does not fit.
    """
    overridden = apply_overrides(config, overrides)
    for one in overrides:
        if not one.startswith(("inference.", "prior.")):
            raise UserError(
                f"--set {one}: expected an option of the sections inference or prior, which an evaluation "
                "can change; train a run with the option instead."
            )
    return overridden


def chosen_variant(
    config: Config,
    priors: str | None = None,
    classification: str | None = None,
    restrict_to_present: bool | None = None,
) -> Variant:
    """Return the variant of a config with the given choices; None keeps the config's.

    Raises UserError for an unknown choice.
    """
    prior, inference = config.prior, config.inference
    _check("--priors", priors, choices(PriorConfig, "source"))
    _check("--classification", classification, choices(InferenceConfig, "classification"))
    if priors is not None:
        prior = replace(prior, source=priors)  # type: ignore[arg-type]
    if classification is not None:
        inference = replace(inference, classification=classification)  # type: ignore[arg-type]
    if restrict_to_present is not None:
        inference = replace(inference, restrict_to_present=restrict_to_present)
    restricted = "-restricted" if inference.restrict_to_present else ""
    return Variant(f"{prior.source}-{inference.classification}{restricted}", prior, inference)


def limit_to_protocol(protocol: Protocol, variant: Variant) -> Variant:
    """Return the variant with the number of detections per image that the protocol prescribes."""
    if protocol.top is None:
        return variant
    return replace(variant, inference=replace(variant.inference, top=protocol.top))


@dataclass(frozen=True)
class _Requests:
    """Requests to draw: sizes in words, number of each size, and the calibration that predict uses."""

    words: tuple[int, ...] = ()
    draws: int = 0
    calibration: ScoreCalibration | None = None


def _evaluated(
    world: World,
    model: InferenceModel,
    dataset: EvaluationSet,
    variant: Variant,
    engine: str,
    resamples: int,
    facts: Facts | None,
    progress: Progress | None,
    stop: Callable[[], bool] = bool,
    requests: _Requests | None = None,
    confirm: Confirmation | None = None,
) -> tuple[Metrics, InferenceResult | None]:
    """Return the metrics on every rank and the detections on rank 0; all raise the error of any rank."""
    outcome: Metrics | UserError | Abandoned = Abandoned()
    inferred = None
    try:
        shown = progress if world.first else None
        requests = requests or _Requests()
        grouped = requesting(variant, grouped_requests(dataset, facts), "group")
        drawn = [
            requesting(variant, drawn_requests(dataset, facts, size, requests.draws), f"draw of {size}")
            for size in requests.words
        ]
        whole = requesting(variant, drawn_requests(dataset, facts, len(dataset.vocabulary), 1), "whole")
        variants = [variant, *grouped, *(one for size in drawn for one in size), *(whole if drawn else [])]
        inferred = infer_on_ranks(model, dataset, variants, world, stop=stop, confirm=confirm, progress=shown)
        if inferred is not None:
            outcome = metrics_of_variant(dataset, inferred, variant, engine, resamples, facts, shown)
            matched = match_requests(dataset, detections_of(inferred, grouped))
            fitted = calibration_of(matched)
            known = fitted.apply(matched.scores, matched.novel)
            used = requests.calibration or fitted
            figures: dict[str, Any] = {
                "calibration": fitted.as_dict(),
                "reliability": reliability(known, matched.right),
                "requests": headline_of_requests(dataset, matched, used),
            }
            if confirm is not None:
                figures["confirm"] = confirm.count
            if drawn:
                by_size = [asked_figures(dataset, inferred, one, whole[0], used) for one in drawn]
                figures["asked"] = by_size[0] if len(by_size) == 1 else by_size
            outcome = replace(outcome, figures=outcome.figures | figures)
    except (UserError, Abandoned) as error:
        if world.size == 1:
            raise
        outcome = error
    outcome = world.share(outcome)
    if not isinstance(outcome, Metrics):
        raise outcome
    return outcome, inferred


def _check(option: str, value: str | None, known: Sequence[str]) -> None:
    if value is not None and value not in known:
        raise UserError(f"{option} {value} is not known; expected one of {', '.join(known)}.")
