"""A table of our own: what options are worth, and how far each detector leans on its priors."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from ablation.data import Say, folders
from ablation.page import save
from ablation.plan import ROWS, Plan
from ablation.runs import FIGURES, seeded, spread, trained
from cache_builder.errors import UserError
from cache_builder.index import open_index
from cache_builder.progress import Progress
from detector.checkpoint import read_json, write_json
from detector.config import PriorConfig
from detector.evaluate import evaluate_detections
from detector.evaluation.inference import Variant, infer
from detector.evaluation.scene import open_scene
from detector.network import load_network

OTHER_PRIORS: tuple[Literal["oracle", "corrupted", "none"], ...] = ("oracle", "corrupted", "none")
"""What a run is asked with besides its own priors."""
LEANING = tuple(f"{source}_{figure}" for source in OTHER_PRIORS for figure in FIGURES)


def options_table(plan: Plan, say: Say, progress: Progress) -> dict[str, Any]:
    """The recipe and each of `plan.rows` laid over it, over the seeds.

    The recipe's own runs are those of table 4's last row; the others lie in OUT/options/ROW-SEED.
    """
    if not plan.rows:
        raise UserError(
            'options compares options: give --row "train.denoise_groups=0", once for each row; several '
            "options of one row with spaces between them."
        )
    configs = plan.configs()
    seen, val = folders(plan, say, progress)
    done: list[dict[str, Any]] = [
        {"key": row, "label": row or "the recipe", "runs": [], **spread([])} for row in configs
    ]
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
    """A row as a folder can bear it."""
    return re.sub(r"[^\w.=,-]+", "+", row)


def leaning(run: Path, val: Path, progress: Progress) -> dict[str, Any]:
    """The figures of a finished run under other priors than its own: "oracle_ap50_novel" and so on.

    Asked once; the answer is kept in the run folder, beside the digest of the index it is about.
    """
    kept, digest = run / "leaning.json", open_index(val).digest
    if kept.is_file():
        known = read_json(kept, "a run of cckt ablate")
        if known["index_digest"] == digest:
            return dict(known["figures"])
    network, facts = load_network(run, "auto")
    scene = open_scene(val, facts)
    inference = network.config.inference
    variants = [
        Variant(source, PriorConfig(source), replace(inference, restrict_to_present=False))
        for source in OTHER_PRIORS
    ]
    found = infer(network, scene, variants, progress=progress).detections
    figures = {
        f"{source}_{figure}": value
        for source in OTHER_PRIORS
        for figure, value in evaluate_detections(scene.index, found[source]).as_dict().items()
        if figure in FIGURES
    }
    write_json(kept, {"index_digest": digest, "figures": figures})
    return figures
