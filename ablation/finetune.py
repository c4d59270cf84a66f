"""What fine-tuning on new classes does to the old ones, and to words that are never annotated.

A detector is trained on the base concepts of shapeworld, then `cckt train --from` continues on other photos,
in which only new classes have boxes: NEW of its novel concepts. The teacher is the same. Nothing of the old
boxes is shown again. A recipe with proposals reads named regions of both data sets, which the plain detector
of the first training proposes: it has seen boxes of the old classes only.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cckt.ablation.data import Announce, columns, folders, region_columns
from cckt.ablation.level_rows import hd_of
from cckt.ablation.options import folder_name
from cckt.ablation.page import save
from cckt.ablation.plan import OPTIONS_OF_PROPOSALS, AblationPlan
from cckt.ablation.runs import check_rows, finish_run, mean_over_seeds, with_seed
from cckt.cache_builder.base.atomic_files import write_bytes
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.ownership import json_object, require_ours_or_absent
from cckt.cache_builder.base.progress import Progress
from cckt.cache_builder.index import build_index
from cckt.cache_builder.teacher.clip import load_teacher
from cckt.detector.config.config import Config
from cckt.detector.config.recipes import base_only, plain
from cckt.detector.runs.json_fields import as_written
from cckt.detector.training.train import finished
from cckt.shapeworld.dataset import make_dataset
from cckt.shapeworld.pictographs import BASE, NOVEL

NEW = 8
"""Novel concepts that get boxes in the new data; the others are never annotated."""
NEW_SEED = 3
"""Photos of the new data."""
GROUPS = ("old_base", "new_base", "never")
"""Concepts that were annotated first, in the new data, and nowhere."""
FIGURES = tuple(f"{when}_{group}" for group in GROUPS for when in ("before", "after"))
MADE = "a file made by cckt ablate finetune"
PLAIN, RECIPE = "plain", "recipe"


def finetune_table(plan: AblationPlan, announce: Announce, progress: Progress) -> dict[str, Any]:
    """Fine-tune a plain detector, the recipe, and the recipe with each of `plan.rows` as options of the
    fine-tuning; answer and errors as for `ablate`.

    The first trainings are in OUT/finetune/start-plain-SEED and start-recipe-SEED, the others in
    OUT/finetune/ROW-SEED.
    """
    if plan.train is not None or plan.val is not None:
        raise UserError(
            "--train and --val do not apply to finetune, which renders shapeworld; remove them, and compare "
            "cckt eval of your run before and after cckt train with --from RUN."
        )
    configs = plan.configs(every_part=False)
    with_proposals = configs[""].data.proposals > 0
    _check_options(plan, with_proposals)
    starts = {PLAIN: bare(configs[""]), RECIPE: configs[""]}
    tuned: dict[str, Config] = {PLAIN: starts[PLAIN], RECIPE: starts[RECIPE]}
    tuned |= {row: config for row, config in configs.items() if row}
    train_data, val = folders(plan, announce, progress, with_columns=False)
    new_data = new_classes(plan, progress)
    teacher = load_teacher("shapeworld", device=configs[""].train.device)
    for data in (train_data, new_data):
        columns(data, val, teacher, configs.values(), progress)
    if with_proposals:
        proposer = plan.run or plan.out / "finetune" / f"start-{PLAIN}-0"
        if plan.run is None:
            announce("plain detector, which also proposes regions, on base concepts, seed 0")
            finish_run(with_seed(starts[PLAIN], 0), train_data, val, proposer, progress)
        announce("proposals of both data sets, their crops and nouns")
        for data in (train_data, new_data):
            region_columns(data, proposer, configs[""], plan, teacher, progress)
    check_rows(tuned, new_data, val)
    labels = {PLAIN: "plain detector", RECIPE: "the recipe"}
    done: list[dict[str, Any]] = []
    for key in tuned:
        done.append({"key": key, "label": labels.get(key, key), "runs": []})
    answer = {"table": "finetune", "rows": done}
    for seed in range(plan.seeds):
        before: dict[str, dict[str, float | None]] = {}
        for known in done:
            kind = PLAIN if known["key"] == PLAIN else RECIPE
            start = plan.out / "finetune" / f"start-{kind}-{seed}"
            if kind not in before:
                announce(f"{labels[kind]} on base concepts, seed {seed}")
                finish_run(with_seed(starts[kind], seed), train_data, val, start, progress)
                before[kind] = _groups_of(start)
            announce(f"{known['label']} on new classes, seed {seed}")
            name = known["key"] if known["key"] in labels else folder_name(known["key"])
            run = plan.out / "finetune" / f"{name}-{seed}"
            config = with_seed(tuned[known["key"]], seed)
            figures = finish_run(config, new_data, val, run, progress, start=start)
            after = _groups_of(run)
            figures |= {f"before_{group}": before[kind][group] for group in GROUPS}
            figures |= {f"after_{group}": after[group] for group in GROUPS}
            known["runs"].append(figures)
            known |= mean_over_seeds(known["runs"], FIGURES)
            save(plan, answer)
    return answer


def bare(config: Config) -> Config:
    """Return the config of the plain detector of a recipe: base boxes and class head, nothing distilled."""
    return base_only(hd_of(config)) if config.data.proposals else plain(config)


def _check_options(plan: AblationPlan, with_proposals: bool) -> None:
    """Raise UserError for options of proposals that the recipe does not read."""
    for option in OPTIONS_OF_PROPOSALS:
        if plan.given[option] and not with_proposals:
            raise UserError(
                f"{option} makes proposals, but --recipe {plan.recipe} reads none; remove it, or give a "
                "recipe of HD-OVD or a hybrid, such as --recipe shapeworld-hybrid."
            )


def new_classes(plan: AblationPlan, progress: Progress) -> Path:
    """Return the new data set: other photos of shapeworld, in which only the new classes have boxes."""
    folder = plan.out / "new-classes"
    if not (folder / "index" / "index.json").is_file():
        photos = plan.out / "new-photos"
        make_dataset(photos, plan.photos, NEW_SEED, progress=progress)
        folder.mkdir(parents=True, exist_ok=True)
        require_ours_or_absent(folder / "split.json", lambda path: json_object(path) == split(), MADE)
        write_bytes(folder / "split.json", json.dumps(split()).encode())
        files = (photos / "annotations.json", photos / "photos", folder)
        build_index(*files, split=folder / "split.json", keep="base")
    return folder


def split() -> dict[str, list[str]]:
    """Return the split of the new data: new classes are base, those never annotated novel, old ones other."""
    novel = sorted(NOVEL)
    return {"base": novel[:NEW], "novel": novel[NEW:], "other": sorted(BASE)}


def _groups_of(run: Path) -> dict[str, float | None]:
    with as_written(run / "metrics.json"):
        return groups(finished(run))


def groups(evaluation: Mapping[str, Any]) -> dict[str, float | None]:
    """Return the mean AP50 of the concepts of each group that have a box; None without any."""
    of = {**dict.fromkeys(BASE, "old_base"), **dict.fromkeys(split()["base"], "new_base")}
    values: dict[str, list[float]] = {group: [] for group in GROUPS}
    for concept in evaluation["per_concept"]:
        if concept["ap50"] is not None:
            values[of.get(concept["name"], "never")].append(float(concept["ap50"]))
    return {group: statistics.fmean(found) if found else None for group, found in values.items()}
