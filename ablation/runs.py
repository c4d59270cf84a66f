"""Runs of an ablation: kept when they are finished, gone on with when they are not; figures over seeds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cckt.cache_builder.base.atomic_files import write_json
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.progress import Progress
from cckt.cache_builder.index import open_index
from cckt.cache_builder.runner import Interrupted
from cckt.detector.config.config import Config, changed
from cckt.detector.evaluation.detect import Variant, infer
from cckt.detector.evaluation.detections import Detections
from cckt.detector.evaluation.scene import Scene, open_scene
from cckt.detector.inference.network import load_network
from cckt.detector.runs.run_folder import Facts, newest_checkpoint, read_json, run_config
from cckt.detector.training.preflight import check_batch, check_validation, gather
from cckt.detector.training.train import finished, train

FIGURES = ("ap50_novel", "ap50_base", "ap50_all", "ap")


def seeded(config: Config, seed: int) -> Config:
    return changed(config, "train", seed=config.train.seed + seed)


def check_rows(rows: Mapping[str, Config], seen: Path, val: Path) -> None:
    """Whether each row, by its name, can be trained and measured, asked before the first of them takes hours.

    Raises UserError of the first that cannot.
    """
    for name, config in rows.items():
        try:
            check_batch(config, 1)
            check_validation(config, val, gather(config, seen).facts)
        except UserError as error:
            raise UserError(f"{name}: {error}") from error


def trained(config: Config, seen: Path, val: Path, run: Path, progress: Progress) -> dict[str, Any]:
    """The figures of a run that is finished, or of what is left to train of it.

    seconds: of training, over all parts of a run that was stopped by a signal; what a killed one had done
    since its last checkpoint is not in it.
    """
    if (run / "config.toml").is_file() and run_config(run) != config:
        raise UserError(f"{run}: was begun with other options; name another --out, or delete this run.")
    known = finished(run)
    if known:
        _check_same_data(run, seen, val, known)
        return _told(run, known)
    resume = newest_checkpoint(run)[0] is not None
    before = _seconds(run)
    began = time.perf_counter()
    try:
        metrics = train(config, seen, val, run, resume=resume, progress=progress)
    finally:
        if run.is_dir():
            write_json(run / "ablate.json", {"seconds": before + time.perf_counter() - began})
    if metrics["stopped"]:
        when = f"step {metrics['step']} of {run.name}"
        raise Interrupted.by(metrics["stopped"], when, "the same command goes on from there")
    return _told(run, metrics["evaluation"])


def _check_same_data(run: Path, seen: Path, val: Path, evaluation: dict[str, Any]) -> None:
    for option, folder, digest in (
        ("--train", seen, Facts.load(run).index_digest),
        ("--val", val, evaluation["figures"]["index_digest"]),
    ):
        if open_index(folder).digest != digest:
            raise UserError(
                f"{run}: its {option} was another data set than {folder}; name that one, or another --out."
            )


def _told(run: Path, evaluation: dict[str, Any]) -> dict[str, Any]:
    return {
        "run": run.name,
        "seconds": _seconds(run),
        "photos": evaluation["photos"],
        **{figure: evaluation[figure] for figure in FIGURES},
    }


def _seconds(run: Path) -> float:
    if not (run / "ablate.json").is_file():
        return 0.0
    return float(read_json(run / "ablate.json", "a run of cckt ablate")["seconds"])


def spread(runs: Sequence[dict[str, Any]], figures: Sequence[str] = FIGURES) -> dict[str, Any]:
    """Mean and sample deviation over the seeds of each figure, None where there is none; seconds in all."""
    answer: dict[str, Any] = {"seconds": sum(run["seconds"] for run in runs)}
    for figure in figures:
        values = [run[figure] for run in runs if run[figure] is not None]
        answer[figure] = statistics.fmean(values) if values else None
        answer[f"{figure}_spread"] = statistics.stdev(values) if len(values) > 1 else None
    return answer


def asked(
    run: Path, val: Path, variants: Sequence[Variant], progress: Progress
) -> tuple[Scene, dict[str, Detections]]:
    """What a finished run finds on `val`, asked in several ways in one pass of its encoder, by their names.

    Raises UserError where the run or its columns cannot be read.
    """
    network, facts = load_network(run, run_config(run).train.device)
    scene = open_scene(val, facts)
    return scene, infer(network, scene, variants, progress=progress).detections
