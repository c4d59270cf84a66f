"""Tables 4 and 5: what each part is worth, and what a stronger teacher is worth."""

from __future__ import annotations

from typing import Any

from cckt.ablation.data import Say, folders, label, strength, teacher_folders
from cckt.ablation.options import options_table
from cckt.ablation.page import save
from cckt.ablation.plan import ROWS, Plan
from cckt.ablation.priors import table6
from cckt.ablation.runs import check_rows, seeded, spread, trained
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.progress import Progress, Silent

PAPER_TEACHERS = (("ViT-B-16", 0.352), ("ViT-L-14", 0.380), ("ViT-H-14 with Swin-B", 0.419))
"""The paper's teachers and their AP50 novel, weakest first."""


def ablate(
    table: str, plan: Plan, *, say: Say = lambda line: None, progress: Progress | None = None
) -> dict[str, Any]:
    """Make a table, or what is left to make of it; the answer as OUT/TABLE.json holds it.

    table: "table4", "table5" or "table6" of the paper, or "options". say: is told what happens, a line at a
    time. The file is written anew after every run, with what is known by then.

    Raises UserError where data, teachers or runs are missing or do not fit, or `out` holds runs of other
    options or data, and Interrupted when a signal ends a training.
    """
    tables = {"table4": _table4, "table5": _table5, "table6": table6, "options": options_table}
    if table not in tables:
        raise UserError(f"table {table!r} is not known; expected one of {', '.join(tables)}.")
    if plan.seeds < 1:
        raise UserError(f"--seeds {plan.seeds}: expected at least 1.")
    if plan.rows and table != "options":
        raise UserError(f"--row is of options, and {table} has rows of its own; leave it out.")
    plan.out.mkdir(parents=True, exist_ok=True)
    return tables[table](plan, say, progress or Silent())


def _table4(plan: Plan, say: Say, progress: Progress) -> dict[str, Any]:
    full = plan.config()
    seen, val = folders(plan, say, progress)
    check_rows({row.label: row.config(full) for row in ROWS}, seen, val)
    done: list[dict[str, Any]] = [
        {"key": row.key, "label": row.label, "paper": row.paper, "options": row.options(full), "runs": []}
        for row in ROWS
    ]
    answer = {"table": "table4", "rows": done}
    for seed in range(plan.seeds):  # seed by seed, so that a table that was stopped is a whole one of fewer
        for row, known in zip(ROWS, done, strict=True):
            say(f"{row.label}, seed {seed}")
            config = row.config(seeded(full, seed))
            run = plan.out / "table4" / f"{row.key}-{seed}"
            known["runs"].append(trained(config, seen, val, run, progress))
            known |= spread(known["runs"])
            save(plan, answer)
    return answer


def _table5(plan: Plan, say: Say, progress: Progress) -> dict[str, Any]:
    full = plan.config()
    if len(plan.teachers) < 2:
        raise UserError(
            "table5 compares teachers, the weakest first: give --teacher NAME two times or more (three for "
            "shapeworld are trained by python -m cckt.shapeworld.train_teacher --size tiny, less and small)."
        )
    if full.prior.source != "clip":
        raise UserError(
            f"option prior.source: found {full.prior.source}, expected clip: in table5 each teacher makes "
            "the priors too."
        )
    labels = [label(name) for name in plan.teachers]
    twice = next((one for one in labels if labels.count(one) > 1), None)
    if twice is not None:
        raise UserError(f"two teachers are both called {twice}; give teachers of different names.")
    seen, val = folders(plan, say, progress, with_columns=False)
    places = []
    done: list[dict[str, Any]] = []
    for number, (name, short) in enumerate(zip(plan.teachers, labels, strict=True)):
        say(f"columns of {short}")
        places.append(teacher_folders(plan, name, seen, val, progress))
        other, paper = PAPER_TEACHERS[number] if len(labels) == len(PAPER_TEACHERS) else (None, None)
        done.append({"key": short, "label": short, "paper_teacher": other, "paper": paper, "runs": []})
        done[-1] |= strength(*places[-1], full)
    answer = {"table": "table5", "rows": done}
    for seed in range(plan.seeds):
        for known, (train_data, val_data) in zip(done, places, strict=True):
            say(f"{known['label']}, seed {seed}")
            run = plan.out / "table5" / f"{known['key']}-{seed}"
            known["runs"].append(trained(seeded(full, seed), train_data, val_data, run, progress))
            known |= spread(known["runs"])
            save(plan, answer)
    return answer
