"""The table of levels: what each level of HD-OVD adds to the base detector, next to CCKT-Det and a hybrid."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from cckt.ablation.data import Announce, folders, region_columns
from cckt.ablation.level_rows import LevelRow, level_rows
from cckt.ablation.page import save
from cckt.ablation.plan import OPTIONS_OF_PROPOSALS, AblationPlan, differences
from cckt.ablation.runs import (
    FIGURES,
    check_rows,
    detect_variants,
    finish_run,
    mean_over_seeds,
    remember,
    weights_and_index,
    with_seed,
)
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.progress import Progress
from cckt.cache_builder.columns.clip_priors import cache_clip_priors
from cckt.cache_builder.columns.crops import cache_crops
from cckt.cache_builder.columns.images import cache_images
from cckt.cache_builder.columns.text import cache_text
from cckt.cache_builder.teacher.clip import load_teacher
from cckt.detector.config.config import Config, changed
from cckt.detector.config.recipes import in_epochs
from cckt.detector.evaluation.evaluate import evaluate_detections
from cckt.detector.evaluation.inference_loop import Variant
from cckt.detector.runs.json_fields import as_written
from cckt.detector.runs.run_folder import run_config
from cckt.detector.training.train import finished

COUNTS = ("objects", "recalled", "selected", "base", "novel", "correct")
"""What becomes of the novel objects (docs/method/hd_ovd.md, section 10)."""
PROPOSER_SHARE = 0.5
"""Share of the epochs for which the detector that proposes regions is trained: its boxes must be good enough
to find objects, its classes are not used."""


def levels_table(plan: AblationPlan, announce: Announce, progress: Progress) -> dict[str, Any]:
    """Compare the levels of a recipe of HD-OVD; answer and errors as for `ablate`.

    Rows are trained in OUT/levels/ROW-SEED. Methods whose own scores weigh the priors are scored a second
    time, with them. Without data sets, shapeworld is rendered, and a detector of the base row, trained for a
    share of the epochs in OUT/levels/proposer, proposes the regions, unless `plan.run` names another.
    """
    rows = level_rows(plan)
    train_data, val = folders(plan, announce, progress, with_columns=False)
    level_columns(rows, train_data, val, plan, announce, progress)
    check_rows({row.label: row.config for row in rows}, train_data, val)
    done: dict[str, dict[str, Any]] = {}
    for row in rows:
        done[row.key] = {"key": row.key, "label": row.label, "prior_weight": 0.0, "runs": []}
    for row in rows:
        if row.prior_weight:
            key, label = f"{row.key}-priors", f"{row.label}, scores weighed by the priors"
            done[key] = {"key": key, "label": label, "prior_weight": row.prior_weight, "runs": []}
    for known in done.values():
        base = next(row for row in rows if row.key == known["key"].removesuffix("-priors"))
        known["options"] = _options(plan, base.config)
    answer = {"table": "levels", "rows": list(done.values())}
    for seed in range(plan.seeds):
        for row in rows:
            announce(f"{row.label}, seed {seed}")
            run = plan.out / "levels" / f"{row.key}-{seed}"
            figures = finish_run(with_seed(row.config, seed), train_data, val, run, progress)
            with as_written(run / "metrics.json"):
                counts = _counts(finished(run))
            _add(done[row.key], figures | counts)
            if row.prior_weight:
                _add(done[f"{row.key}-priors"], _with_priors(run, val, row.prior_weight, progress))
            save(plan, answer)
    return answer


def proposer_config(rows: list[LevelRow]) -> Config:
    """Return the config of the detector that proposes regions: the base row, trained for less long."""
    config = next(row.config for row in rows if row.key == "base")
    return in_epochs(config, math.ceil(config.train.epochs * PROPOSER_SHARE))


def level_columns(
    rows: list[LevelRow],
    train_data: Path,
    val: Path,
    plan: AblationPlan,
    announce: Announce,
    progress: Progress,
) -> None:
    """Make the columns of a rendered shapeworld that the rows read, or what is missing of them.

    The user's own data sets keep theirs. Raises UserError if an option says how to make some.
    """
    if plan.train is not None:
        for option in OPTIONS_OF_PROPOSALS:
            if plan.given[option]:
                raise UserError(
                    f"{option} makes columns of a rendered shapeworld; you passed --train and --val. Remove "
                    "it, and make the columns of these data sets with cckt cache proposals, crops and nouns."
                )
        return
    config = rows[0].config
    teacher = load_teacher("shapeworld", device=config.train.device)
    announce("columns of text, crops and images")
    guided = any(row.config.prior.cached for row in rows)
    for folder in (train_data, val):
        cache_text(folder, teacher, progress=progress)
        if folder == train_data or guided:
            cache_images(folder, teacher, progress=progress)
    cache_crops(train_data, teacher, progress=progress)
    on_train = any(row.config.trains_on_priors for row in rows)
    for folder in (*([val] if guided else []), *([train_data] if on_train else [])):
        cache_clip_priors(folder, progress=progress)
    run = plan.run
    if run is None:
        run = plan.out / "levels" / "proposer"
        announce("base detector that proposes regions")
        finish_run(proposer_config(rows), train_data, val, run, progress)
    announce("proposals, their crops and nouns")
    region_columns(train_data, run, config, plan, teacher, progress)


def _with_priors(run: Path, val: Path, weight: float, progress: Progress) -> dict[str, Any]:
    """Return the figures of a finished run whose scores are weighed by its priors; kept in the run folder."""
    config = run_config(run)
    inference = replace(config.inference, prior_weight=weight)

    def compute() -> dict[str, Any]:
        variant = Variant("priors", config.prior, inference)
        scene, found = detect_variants(run, val, [variant], progress)
        figures = evaluate_detections(scene.index, found["priors"]).as_dict()
        known = {name: figures[name] for name in ("photos", *FIGURES)}
        return {"run": run.name, "seconds": 0.0, **known, **_counts(figures)}

    about = {**weights_and_index(run, val), "prior_weight": weight}
    return remember(run / "scored-priors.json", about, compute)


def _add(known: dict[str, Any], figures: dict[str, Any]) -> None:
    """Add the figures of a run to its row, whose means over seeds they change."""
    known["runs"].append(figures)
    known |= mean_over_seeds(known["runs"], (*FIGURES, *(f"novel_{name}" for name in COUNTS)))


def _counts(evaluation: dict[str, Any]) -> dict[str, float]:
    """Return what becomes of the novel objects: "novel_recalled" and so on."""
    found = evaluation["figures"]["novel_objects"]
    return {f"novel_{name}": float(found[name]) for name in COUNTS}


def _options(plan: AblationPlan, config: Config) -> dict[str, Any]:
    """Return the options in which a row differs from the recipe: "section.name" -> value."""
    full = changed(plan.started(), "inference", prior_weight=0.0)
    return differences(full, config)
