"""The table of options: their effect, and how much each detector depends on its guidance."""

from __future__ import annotations

import hashlib
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from cckt.ablation.data import Announce, folders
from cckt.ablation.page import save
from cckt.ablation.plan import FULL_ROW, AblationPlan
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
from cckt.detector.config.config import Config, PriorConfig
from cckt.detector.evaluation.evaluate import evaluate_detections
from cckt.detector.evaluation.evaluation_set import CORRUPTED_ADD, CORRUPTED_DROP
from cckt.detector.evaluation.inference_loop import Variant
from cckt.detector.runs.run_folder import run_config

GUIDANCE = ("own", "oracle", "corrupted", "none")
"""Priors that guide a finished run; they guide the queries only and do not weight scores."""
GUIDANCE_FIGURES = tuple(f"{source}_{figure}" for source in GUIDANCE for figure in FIGURES)
LONGEST = 100
"""Characters of a row in its folder name."""


def options_table(plan: AblationPlan, announce: Announce, progress: Progress) -> dict[str, Any]:
    """Compare the recipe with each of `plan.rows` applied to it; answer and errors as for `ablate`.

    Rows are trained in OUT/options/ROW-SEED. The recipe's own runs are those of Table 4's last row if both
    have the same options, else OUT/options/recipe-SEED.
    """
    if not plan.rows:
        raise UserError(
            'options compares options: give --row "denoise.groups=0" once per row; separate several '
            "options of one row by spaces."
        )
    configs = plan.configs()
    train_data, val = folders(plan, announce, progress)
    check_rows({row or "the recipe": config for row, config in configs.items()}, train_data, val)
    done: list[dict[str, Any]] = [{"key": row, "label": row or "the recipe", "runs": []} for row in configs]
    answer = {"table": "options", "rows": done}
    for seed in range(plan.seeds):
        for known, (row, config) in zip(done, configs.items(), strict=True):
            announce(f"{known['label']}, seed {seed}")
            run = plan.out / "options" / f"{folder_name(row) if row else 'recipe'}-{seed}"
            if not row and FULL_ROW.config(config) == config:
                run = FULL_ROW.run(plan.out, seed)
            figures = finish_run(with_seed(config, seed), train_data, val, run, progress)
            known["runs"].append(figures | guidance_figures(run, val, progress))
            known |= mean_over_seeds(known["runs"], (*FIGURES, *GUIDANCE_FIGURES))
            save(plan, answer)
    return answer


def folder_name(row: str) -> str:
    """Return a row as a folder name: unchanged if possible, else cut and with a digest of the row."""
    name = re.sub(r"[^\w.=,-]", "+", row)[:LONGEST]
    if name == row.replace(" ", "+") and "+" not in row:
        return name
    return f"{name}-{hashlib.sha256(row.encode()).hexdigest()[:8]}"


def guidance_figures(run: Path, val: Path, progress: Progress) -> dict[str, Any]:
    """Return the figures of a finished run under each kind of GUIDANCE: "oracle_ap50_novel" and so on.

    Priors neither weight nor exclude scores, so the figures measure the guidance of the queries only. They
    are kept in the run folder, as leaning.json. Raises UserError if the run or its columns cannot be read.
    """
    variants = _variants(run_config(run))

    def compute() -> dict[str, Any]:
        scene, found = detect_variants(run, val, variants, progress)
        return {
            f"{source}_{figure}": value
            for source in GUIDANCE
            for figure, value in evaluate_detections(scene.index, found[source]).as_dict().items()
            if figure in FIGURES
        }

    about = {
        **weights_and_index(run, val),
        "asked": [asdict(variant) for variant in variants],
        "corrupted": [CORRUPTED_DROP, CORRUPTED_ADD],
    }
    return remember(run / "leaning.json", about, compute)


def _variants(config: Config) -> list[Variant]:
    inference = replace(config.inference, prior_weight=0.0, restrict_to_present=False)
    priors = (config.prior, PriorConfig("oracle"), PriorConfig("corrupted"), PriorConfig("none"))
    return [Variant(name, prior, inference) for name, prior in zip(GUIDANCE, priors, strict=True)]
