"""What a detector keeps of words that are never annotated: AP50 novel against epochs, for four methods.

A row is trained once, at a constant learning rate after the warm-up, and is evaluated on the way. Its curve
does not depend on where it ends: it can be continued with later epochs. With a falling rate every point would
need its own training, and a short one would end at a lower rate than the same epoch of a long one.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from cckt.ablation.data import Announce, folders
from cckt.ablation.level_rows import LevelRow, level_rows
from cckt.ablation.levels import level_columns
from cckt.ablation.page import save
from cckt.ablation.plan import AblationPlan, differences
from cckt.ablation.retention_page import draw
from cckt.ablation.runs import FIGURES, MADE_BY, check_rows, mean_over_seeds, numbers, with_seed
from cckt.cache_builder.base.atomic_files import write_json
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.progress import Progress
from cckt.cache_builder.index import open_index
from cckt.cache_builder.runner import Interrupted
from cckt.detector.config.config import Config, changed
from cckt.detector.data.dataset import used_images
from cckt.detector.data.schedule import Schedule
from cckt.detector.runs.checkpoints import newest_checkpoint
from cckt.detector.runs.json_fields import as_written
from cckt.detector.runs.run_folder import Facts, read_json, run_config
from cckt.detector.training.train import train

LABELS = {
    "base": "plain detector",
    "cckt": "CCKT-Det",
    "all": "HD-OVD",
    "hybrid": "hybrid of both methods",
}
"""Rows of the table of levels that have a curve -> their label here."""
CURVE = "curve.json"


def retention_table(plan: AblationPlan, announce: Announce, progress: Progress) -> dict[str, Any]:
    """Follow AP50 of base and novel concepts over `plan.at` epochs; answer and errors as for `ablate`.

    Rows are trained in OUT/retention/ROW-SEED, with the columns and the proposing detector of the table of
    levels. Scores are not weighed by priors.
    """
    marks = check_marks(plan)
    every = level_rows(replace(plan, epochs=None))
    rows = [LevelRow(row.key, LABELS[row.key], row.config, 0.0) for row in every if row.key in LABELS]
    rows.sort(key=lambda row: [*LABELS].index(row.key))
    train_data, val = folders(plan, announce, progress, with_columns=False)
    level_columns(every, train_data, val, plan, announce, progress)
    configs = {row.key: constant_rate(row.config, marks[-1]) for row in rows}
    check_rows({row.label: configs[row.key] for row in rows}, train_data, val)
    done: list[dict[str, Any]] = []
    for row in rows:
        done.append({"key": row.key, "label": row.label, "runs": [], "points": {}})
    answer = {"table": "retention", "at": list(marks), "rows": done}
    for seed in range(plan.seeds):
        for known in done:
            announce(f"{known['label']}, seed {seed}")
            run = plan.out / "retention" / f"{known['key']}-{seed}"
            points = curve(with_seed(configs[known["key"]], seed), train_data, val, run, marks, progress)
            known["runs"].append({"run": run.name, "points": points})
            known["points"] = {
                str(mark): mean_over_seeds([one["points"][str(mark)] for one in known["runs"]], FIGURES)
                for mark in marks
            }
            known["seconds"] = sum(point["seconds"] for point in known["points"].values())
            save(plan, answer)
            draw(answer, plan.out)
    return answer


def check_marks(plan: AblationPlan) -> tuple[int, ...]:
    """Return the epochs of the curve, rising. Raises UserError for none, numbers below 1, and --epochs."""
    if plan.epochs is not None:
        raise UserError(
            "--epochs does not apply to retention, whose curves end at the last --at; remove it, or pass "
            f"--at {plan.epochs}."
        )
    marks = tuple(sorted(set(plan.at)))
    if not marks or marks[0] < 1:
        raise UserError(f"--at {marks[0] if marks else ''}: expected epochs of at least 1.")
    return marks


def constant_rate(config: Config, epochs: int) -> Config:
    """Return the config with a learning rate that stays constant after the warm-up."""
    return changed(
        config,
        "train",
        schedule="step",
        epochs=epochs,
        lr_drop_factor=1.0,
        evaluate_every=0,
    )


def curve(
    config: Config, train_data: Path, val: Path, run: Path, marks: tuple[int, ...], progress: Progress
) -> dict[str, dict[str, Any]]:
    """Return epoch -> figures of a run at each of `marks`; train what is missing of it.

    The figures are kept in the run folder, as curve.json; seconds: of the training since the mark before.
    Raises UserError if the folder holds a run of other options or data, or has passed a mark without an
    evaluation, and Interrupted when a signal stops the training.
    """
    points: dict[str, dict[str, Any]] = {}
    if (run / "config.toml").is_file():
        _require_same(config, run, train_data)
    if (run / CURVE).is_file():
        known = read_json(run / CURVE, MADE_BY)
        with as_written(run / CURVE):
            scored = known["val"]
            points = {str(int(mark)): _point(one) for mark, one in known["points"].items()}
        if scored != open_index(val).digest:
            raise UserError(
                f"{run}: its --val was another data set than {val}; name that one, or another --out."
            )
    photos = len(used_images(open_index(train_data), config.data))
    steps = Schedule(photos, config.train.seed, config.train.batch).steps_per_epoch
    for mark in marks:
        if str(mark) in points:
            continue
        passed = max(map(int, points), default=0)
        if passed > mark:
            raise UserError(
                f"{run}: was evaluated at epoch {passed} but not at {mark}, which its training has passed; "
                f"leave out --at {mark}, or name another --out."
            )
        began = time.perf_counter()
        resume = newest_checkpoint(run)[0] is not None
        metrics = train(
            config, train_data, val, run, resume=resume, max_steps=mark * steps, progress=progress
        )
        if metrics["stopped"]:
            when = f"step {metrics['step']} of {run.name}"
            raise Interrupted.by(metrics["stopped"], when, "run the same command to continue")
        points[str(mark)] = _point({"seconds": time.perf_counter() - began, **metrics["evaluation"]})
        write_json(run / CURVE, {"val": open_index(val).digest, "points": points})
    return points


def _point(figures: dict[str, Any]) -> dict[str, float | None]:
    """Return seconds and FIGURES of an evaluation, which `as_written` checks."""
    return {"seconds": float(figures["seconds"]), **numbers(figures)}


def _require_same(config: Config, run: Path, train_data: Path) -> None:
    """Raise UserError unless the run has the options, apart from its length, and the data."""
    other = {
        name: value for name, value in differences(config, run_config(run)).items() if name != "train.epochs"
    }
    if other:
        found = ", ".join(f"{name}={value}" for name, value in other.items())
        raise UserError(
            f"{run}: was begun with other options ({found}); name another --out, or delete this folder."
        )
    if (run / "facts.json").is_file() and Facts.load(run).index_digest != open_index(train_data).digest:
        raise UserError(
            f"{run}: its --train was another data set than {train_data}; name that one, or another --out."
        )
