"""Tables 4 and 5 of the paper, and the entry point of all tables."""

from __future__ import annotations

from typing import Any

from cckt.ablation.data import Announce, folders, label, strength, teacher_folders
from cckt.ablation.finetune import finetune_table
from cckt.ablation.levels import levels_table
from cckt.ablation.options import options_table
from cckt.ablation.page import save
from cckt.ablation.plan import HELD_OUT, PHOTOS, ROW_TABLES, ROWS, WITH_PROPOSALS, AblationPlan
from cckt.ablation.priors import table6
from cckt.ablation.retention import retention_table
from cckt.ablation.retention_page import PICTURES
from cckt.ablation.runs import check_rows, finish_run, mean_over_seeds, rescore, with_seed
from cckt.cache_builder.base.disk_faults import require_room
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.ownership import json_object, require_own_folder
from cckt.cache_builder.base.progress import Progress, Silent
from cckt.cache_builder.columns.nouns.word_list import read_words

PAPER_TEACHERS = (("ViT-B-16", 0.352), ("ViT-L-14", 0.380), ("ViT-H-14 with Swin-B", 0.419))
"""Teachers of the paper and their AP50 novel, weakest first."""


def ablate(
    table: str,
    plan: AblationPlan,
    *,
    announce: Announce = lambda line: None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Make a table, or what is missing of it; return the contents of OUT/TABLE.json.

    table: "table4", "table5" or "table6" of the paper, "options", "levels" of HD-OVD, "retention" or
    "finetune". announce: called with a line per run. The file is written again after every run, with the
    figures so far.

    Raises UserError if data, teachers or runs are missing or do not fit, or `out` holds runs of other options
    or data, and Interrupted when a signal stops a training.
    """
    tables = {
        "table4": _table4,
        "table5": _table5,
        "table6": table6,
        "options": options_table,
        "levels": levels_table,
        "retention": retention_table,
        "finetune": finetune_table,
    }
    if table not in tables:
        raise UserError(f"table {table!r} is not known; expected one of {', '.join(tables)}.")
    _check_numbers(plan)
    tables_of = {
        "--row": ROW_TABLES,
        "--rho": ("table6",),
        "--limit": ("table6",),
        "--teacher": ("table5",),
        "--at": ("retention",),
        "--run": ("table6", *WITH_PROPOSALS),
        "--top": WITH_PROPOSALS,
        "--nouns-from": WITH_PROPOSALS,
    }
    for option, known in tables_of.items():
        if plan.given[option] and table not in known:
            *before, last = known
            named = f"tables {', '.join(before)} and {last}" if before else f"table {last}"
            raise UserError(f"{option} applies only to the {named}; you passed {table}. Remove it.")
    rendered = {
        "--photos": (plan.photos != PHOTOS, plan.train),
        "--held-out": (plan.held_out != HELD_OUT, plan.val),
    }
    for option, (given, own) in rendered.items():
        if given and own is not None:
            raise UserError(f"{option} counts rendered photos, and {own} is given; remove {option}.")
    if plan.nouns_from is not None:
        read_words(plan.nouns_from)  # fails now instead of after a training
    pictures = [f"retention.{kind}" for kind in PICTURES] if table == "retention" else []
    require_own_folder(
        plan.out,
        f"{table}.json",
        lambda path: json_object(path).get("table") == table,
        [f"{table}.md", *pictures],
        f"the table {table} of cckt",
    )
    require_room(plan.out)
    plan.out.mkdir(parents=True, exist_ok=True)
    return tables[table](plan, announce, progress or Silent())


def _check_numbers(plan: AblationPlan) -> None:
    """Raise UserError for numbers out of range, before hours of work."""
    counts = {"--seeds": plan.seeds, "--photos": plan.photos, "--held-out": plan.held_out, "--top": plan.top}
    for option, value in counts.items():
        if value < 1:
            raise UserError(f"{option} {value}: expected at least 1.")
    for rho in plan.rhos:
        if not 0 <= rho <= 1:
            raise UserError(f"--rho {rho:g}: expected a probability from 0 to 1.")
    for limit in plan.limits:
        if limit < 0:
            raise UserError(f"--limit {limit}: expected a number of concepts, at least 0.")


def _table4(plan: AblationPlan, announce: Announce, progress: Progress) -> dict[str, Any]:
    full = plan.config()
    train_data, val = folders(plan, announce, progress)
    check_rows({row.label: row.config(full) for row in ROWS}, train_data, val)
    rows = {row.key: row for row in ROWS}
    done: list[dict[str, Any]] = [
        {"key": row.key, "label": row.label, "paper": row.paper, "options": row.options(full), "runs": []}
        for row in ROWS
    ]
    answer = {"table": "table4", "rows": done}
    for seed in range(plan.seeds):  # seed by seed: a stopped table is complete for the seeds before
        for row, known in zip(ROWS, done, strict=True):
            announce(f"{row.label}, seed {seed}")
            seeded = with_seed(full, seed)
            run = row.run(plan.out, seed)
            trained = rows[row.scored_from or row.key].config(seeded)
            figures = finish_run(trained, train_data, val, run, progress)
            if row.scored_from:
                figures = rescore(run, val, row.config(seeded).inference, progress)
            known["runs"].append(figures)
            known |= mean_over_seeds(known["runs"])
            save(plan, answer)
    return answer


def _table5(plan: AblationPlan, announce: Announce, progress: Progress) -> dict[str, Any]:
    full = plan.config()
    if len(plan.teachers) < 2:
        raise UserError(
            f"table5 compares teachers, found {len(plan.teachers)}; give --teacher NAME two times or more, "
            "weakest first. docs/ablating.md shows how to train weaker ones for shapeworld."
        )
    if full.prior.source != "clip":
        raise UserError(
            f"option prior.source: found {full.prior.source}, expected clip: in table5 each teacher makes "
            "the priors too."
        )
    labels = [label(name) for name in plan.teachers]
    twice = next((one for one in labels if labels.count(one) > 1), None)
    if twice is not None:
        raise UserError(f"two teachers are both called {twice}; give teachers with different names.")
    train_data, val = folders(plan, announce, progress, with_columns=False)
    places = []
    done: list[dict[str, Any]] = []
    for number, (name, short) in enumerate(zip(plan.teachers, labels, strict=True)):
        announce(f"columns of {short}")
        places.append(teacher_folders(plan, name, train_data, val, progress))
        other, paper = PAPER_TEACHERS[number] if len(labels) == len(PAPER_TEACHERS) else (None, None)
        done.append({"key": short, "label": short, "paper_teacher": other, "paper": paper, "runs": []})
        done[-1] |= strength(*places[-1], full)
    answer = {"table": "table5", "rows": done}
    for seed in range(plan.seeds):
        for known, (of_train, of_val) in zip(done, places, strict=True):
            announce(f"{known['label']}, seed {seed}")
            run = plan.out / "table5" / f"{known['key']}-{seed}"
            known["runs"].append(finish_run(with_seed(full, seed), of_train, of_val, run, progress))
            known |= mean_over_seeds(known["runs"])
            save(plan, answer)
    return answer
