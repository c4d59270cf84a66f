"""Runs of an ablation: train or resume them, score finished ones in several ways, average over seeds."""

from __future__ import annotations

import contextlib
import hashlib
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cckt.ablation.plan import differences
from cckt.cache_builder.base.atomic_files import plain, write_json
from cckt.cache_builder.base.digests import digest_of
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.progress import Progress
from cckt.cache_builder.base.untrusted.regular_files import read_regular
from cckt.cache_builder.index import open_index
from cckt.cache_builder.runner import Interrupted
from cckt.detector.config.config import Config, InferenceConfig, changed
from cckt.detector.evaluation.detections import Detections
from cckt.detector.evaluation.evaluate import evaluate_detections
from cckt.detector.evaluation.evaluation_set import EvaluationSet, open_evaluation_set
from cckt.detector.evaluation.inference_loop import Variant, infer
from cckt.detector.inference.inference_model import load_inference_model
from cckt.detector.runs.checkpoints import newest_checkpoint
from cckt.detector.runs.folder_guard import require_own_or_empty
from cckt.detector.runs.json_fields import as_written
from cckt.detector.runs.run_folder import Facts, read_json, run_config
from cckt.detector.training.preflight import check_batch, check_validation, gather
from cckt.detector.training.train import finished, train

FIGURES = ("ap50_novel", "ap50_base", "ap50_all", "ap")
MADE_BY = "a run of cckt ablate"


def with_seed(config: Config, seed: int) -> Config:
    """Return the config with `seed` added to its own seed."""
    return changed(config, "train", seed=config.train.seed + seed)


def check_rows(rows: Mapping[str, Config], train_data: Path, val: Path) -> None:
    """Check that each row, by its name, can be trained and evaluated, before any training starts.

    Raises UserError for the first that cannot.
    """
    for name, config in rows.items():
        try:
            check_batch(config, 1)
            check_validation(config, val, gather(config, train_data).facts)
        except UserError as error:
            raise UserError(f"{name}: {error}") from error


def finish_run(
    config: Config,
    train_data: Path,
    val: Path,
    run: Path,
    progress: Progress,
    start: Path | None = None,
) -> dict[str, Any]:
    """Return the figures of a run; train it, or resume its training, if it is not finished.

    start: the run from whose weights a new one starts.

    seconds: of training, over all sessions that ended or were stopped by a signal; of a killed session only
    what is in its checkpoint. Raises UserError if the folder holds a run of other options or data, and
    Interrupted when a signal stops the training.
    """
    if (run / "config.toml").is_file() and run_config(run) != config:
        other = differences(config, run_config(run))
        found = ", ".join(f"{name}={value}" for name, value in other.items())
        raise UserError(
            f"{run}: was begun with other options ({found}); name another --out, or delete this folder."
        )
    known = finished(run)
    if known:
        _check_same_data(run, train_data, val, known)
        return _figures_of(run, known)
    resume = newest_checkpoint(run)[0] is not None
    before = _seconds(run)
    began = time.perf_counter()
    try:
        begin = None if resume else start
        metrics = train(config, train_data, val, run, resume=resume, start=begin, progress=progress)
    finally:
        if run.is_dir():
            with contextlib.suppress(UserError):  # a folder of somebody else, which `train` refused
                require_own_or_empty(run)
                write_json(run / "ablate.json", {"seconds": before + time.perf_counter() - began})
    if metrics["stopped"]:
        when = f"step {metrics['step']} of {run.name}"
        raise Interrupted.by(metrics["stopped"], when, "run the same command to continue")
    return _figures_of(run, metrics["evaluation"])


def rescore(run: Path, val: Path, inference: InferenceConfig, progress: Progress) -> dict[str, Any]:
    """Return the figures of a finished run on `val` with another scoring and the run's own priors.

    seconds: of the scoring. The answer is kept in the run folder, as scored-CLASSIFICATION.json.
    """
    variant = Variant(inference.classification, run_config(run).prior, inference)

    def compute() -> dict[str, Any]:
        began = time.perf_counter()
        scene, found = detect_variants(run, val, [variant], progress)
        figures = evaluate_detections(scene.index, found[variant.name]).as_dict()
        known = {name: figures[name] for name in ("photos", *FIGURES)}
        return {"run": run.name, "seconds": time.perf_counter() - began, **known}

    about = {**weights_and_index(run, val), "variant": asdict(variant)}
    return remember(run / f"scored-{variant.name}.json", about, compute)


def weights_and_index(run: Path, val: Path) -> dict[str, str]:
    """Return digests of a run's weights and of the index of `val`."""
    return {
        "weights": hashlib.sha256(read_regular(run / "model.safetensors")).hexdigest(),
        "index": open_index(val).digest,
    }


def remember(path: Path, about: dict[str, Any], compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return the figures kept in `path` if they are about the same inputs; else compute and keep them.

    Figures that were edited by hand are computed again.
    """
    if path.is_file():
        known = read_json(path, MADE_BY)
        known = known if isinstance(known, dict) else {}
        figures = known.get("figures")
        if known.get("about") == about and known.get("digest") == _digest(figures):
            return dict(known["figures"])
    figures = compute()
    write_json(path, {"about": about, "figures": figures, "digest": _digest(figures)})
    return figures


def _digest(figures: Any) -> str:
    return digest_of(json.dumps(plain(figures), sort_keys=True).encode())


def detect_variants(
    run: Path, val: Path, variants: Sequence[Variant], progress: Progress
) -> tuple[EvaluationSet, dict[str, Detections]]:
    """Return the detections of a finished run on `val` for each variant, from one pass of its encoder.

    Raises UserError if the run or its columns cannot be read.
    """
    network, facts = load_inference_model(run, run_config(run).train.device)
    scene = open_evaluation_set(val, facts)
    return scene, infer(network, scene, variants, progress=progress).detections


def mean_over_seeds(runs: Sequence[dict[str, Any]], figures: Sequence[str] = FIGURES) -> dict[str, Any]:
    """Return mean and sample deviation over the seeds for each figure, None if unknown; and all seconds."""
    answer: dict[str, Any] = {"seconds": sum(run["seconds"] for run in runs)}
    for figure in figures:
        values = [run[figure] for run in runs if run[figure] is not None]
        answer[figure] = statistics.fmean(values) if values else None
        answer[f"{figure}_spread"] = statistics.stdev(values) if len(values) > 1 else None
    return answer


def _check_same_data(run: Path, train_data: Path, val: Path, evaluation: dict[str, Any]) -> None:
    with as_written(run / "metrics.json"):
        scored = evaluation["figures"]["index_digest"]
    for option, folder, digest in (
        ("--train", train_data, Facts.load(run).index_digest),
        ("--val", val, scored),
    ):
        if open_index(folder).digest != digest:
            raise UserError(
                f"{run}: its {option} was another data set than {folder}; name that one, or another --out."
            )


def _figures_of(run: Path, evaluation: dict[str, Any]) -> dict[str, Any]:
    with as_written(run / "metrics.json"):
        figures = numbers(evaluation)
        return {"run": run.name, "seconds": _seconds(run), "photos": evaluation["photos"], **figures}


def numbers(evaluation: Mapping[str, Any]) -> dict[str, float | None]:
    """Return FIGURES of an evaluation; for a file that was edited by hand, use it in `as_written`."""
    return {figure: None if evaluation[figure] is None else float(evaluation[figure]) for figure in FIGURES}


def _seconds(run: Path) -> float:
    if not (run / "ablate.json").is_file():
        return 0.0
    with as_written(run / "ablate.json"):
        return float(read_json(run / "ablate.json", MADE_BY)["seconds"])
