"""A table of our own: what options are worth, and how far each detector leans on what it is told."""

from __future__ import annotations

import hashlib
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from cckt.ablation.data import Say, folders
from cckt.ablation.page import save
from cckt.ablation.plan import ROWS, Plan
from cckt.ablation.runs import FIGURES, asked, check_rows, seeded, spread, trained
from cckt.cache_builder.base.atomic_files import write_json
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.progress import Progress
from cckt.cache_builder.index import open_index
from cckt.detector.config.config import Config, PriorConfig
from cckt.detector.evaluation.detect import Variant
from cckt.detector.evaluation.evaluate import evaluate_detections
from cckt.detector.evaluation.scene import WITHHELD, WRONG
from cckt.detector.runs.run_folder import read_json, run_config

TOLD = ("own", "oracle", "corrupted", "none")
"""The priors that a finished run is told, and no more than told: they weigh on no score."""
LEANING = tuple(f"{source}_{figure}" for source in TOLD for figure in FIGURES)
LONGEST = 100
"""Letters of a row's folder."""


def options_table(plan: Plan, say: Say, progress: Progress) -> dict[str, Any]:
    """The recipe and each of `plan.rows` laid over it, over the seeds; answer and errors as `ablate` says.

    The recipe's own runs are those of table 4's last row; the others lie in OUT/options/ROW-SEED.
    """
    if not plan.rows:
        raise UserError(
            'options compares options: give --row "train.denoise_groups=0", once for each row; several '
            "options of one row with spaces between them."
        )
    configs = plan.configs()
    seen, val = folders(plan, say, progress)
    check_rows({row or "the recipe": config for row, config in configs.items()}, seen, val)
    done: list[dict[str, Any]] = [{"key": row, "label": row or "the recipe", "runs": []} for row in configs]
    answer = {"table": "options", "rows": done}
    for seed in range(plan.seeds):
        for known, (row, config) in zip(done, configs.items(), strict=True):
            say(f"{known['label']}, seed {seed}")
            place = plan.out / ("options" if row else "table4")
            run = place / f"{folder_name(row) if row else ROWS[-1].key}-{seed}"
            figures = trained(seeded(config, seed), seen, val, run, progress)
            known["runs"].append(figures | leaning(run, val, progress))
            known |= spread(known["runs"], (*FIGURES, *LEANING))
            save(plan, answer)
    return answer


def folder_name(row: str) -> str:
    """A row as a folder can bear it: as it is where that can be, else cut and with a digest of its own."""
    name = re.sub(r"[^\w.=,-]", "+", row)[:LONGEST]
    if name == row.replace(" ", "+") and "+" not in row:
        return name
    return f"{name}-{hashlib.sha256(row.encode()).hexdigest()[:8]}"


def leaning(run: Path, val: Path, progress: Progress) -> dict[str, Any]:
    """The figures of a finished run that is told these or those priors: "oracle_ap50_novel" and so on.

    Nothing is weighed or ruled out by them, so that a detector that hears nothing leans on nothing. Asked
    once: the answer is kept in the run folder with what it is an answer to. Raises UserError where the run or
    its columns cannot be read.
    """
    config = run_config(run)
    ways = _variants(config)
    about = {
        "weights": hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest(),
        "index": open_index(val).digest,
        "asked": [asdict(way) for way in ways],
        "corrupted": [WITHHELD, WRONG],
    }
    kept = run / "leaning.json"
    if kept.is_file():
        known = read_json(kept, "a run of cckt ablate")
        if known.get("about") == about:  # else of other weights, data or questions: asked anew
            return dict(known["figures"])
    scene, found = asked(run, val, ways, progress)
    figures = {
        f"{source}_{figure}": value
        for source in TOLD
        for figure, value in evaluate_detections(scene.index, found[source]).as_dict().items()
        if figure in FIGURES
    }
    write_json(kept, {"about": about, "figures": figures})
    return figures


def _variants(config: Config) -> list[Variant]:
    inference = replace(config.inference, prior_weight=0.0, restrict_to_present=False)
    told = (config.prior, PriorConfig("oracle"), PriorConfig("corrupted"), PriorConfig("none"))
    return [Variant(name, prior, inference) for name, prior in zip(TOLD, told, strict=True)]
