"""The answers of an ablation as JSON and as a page: ours beside the paper's, with what they say."""

from __future__ import annotations

import os
import platform
import shlex
import statistics
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from cckt.ablation.plan import Plan
from cckt.cache_builder.base.atomic_files import plain, write_bytes, write_json
from cckt.detector.evaluation.metrics import percent

TITLES = {
    "table4": "Table 4: what each part is worth",
    "table5": "Table 5: what a stronger teacher is worth",
    "table6": "Table 6: what rho and L do when chance fills up to L",
    "options": "What options are worth, and how far the detector leans on what it is told",
}


def save(plan: Plan, answer: dict[str, Any]) -> None:
    """Write OUT/TABLE.json and OUT/TABLE.md; adds command, machine, seconds and checks to the answer."""
    table = answer["table"]
    checks = {"table4": _parts, "table5": _teachers, "table6": _limits, "options": _effects}[table]
    answer |= {"command": command(table, plan), "machine": machine()}
    if "seconds" not in answer or table != "table6":
        answer["seconds"] = sum(row.get("seconds", 0.0) for row in answer["rows"])
    answer["checks"] = checks(answer["rows"])
    write_json(plan.out / f"{table}.json", answer)
    write_bytes(plan.out / f"{table}.md", page(plain(answer)).encode())


def page(answer: dict[str, Any]) -> str:
    """Markdown of an answer, as it stands in TABLE.json."""
    table = answer["table"]
    lines = [f"## {TITLES[table]}", "", f"`{answer['command']}`", ""]
    lines += [f"{_minutes(answer['seconds'])} on {answer['machine']}. AP50 in percent.", ""]
    head, *body = rows(answer)
    lines += [_line(head), _line(["---"] * len(head)), *map(_line, body), ""]
    lines += [f"* {sentence}" for sentence in sentences(answer)]
    if table == "table4":
        lines += ["", "The rows as options over the recipe:", ""]
        for row in answer["rows"]:
            told = ", ".join(f"{name}={_value(value)}" for name, value in row["options"].items())
            lines.append(f"* {row['label']}: {told or 'the recipe itself'}")
    return "\n".join(lines) + "\n"


def rows(answer: dict[str, Any]) -> list[list[str]]:
    """The table as words, its head first."""
    if answer["table"] == "table6":
        head = [
            "rho",
            "L",
            "filled up with",
            "passed a photo",
            "AP50 novel",
            "base",
            "all",
            "the paper's novel",
        ]
        return [head, *([*_cell(row), percent(row["paper"])] for row in answer["rows"])]
    seeds = max((len(row["runs"]) for row in answer["rows"]), default=0)
    told = f"{seeds} seed{'s' * (seeds != 1)}"
    if answer["table"] == "options":
        head = ["", f"AP50 base / novel, {told}", "told its priors", "the truth", "it corrupted", "nothing"]
        return [head, *([row["label"], *_leaning(row)] for row in answer["rows"])]
    head = ["", f"AP50 novel, {told}", "base", "all", "the paper's novel"]
    stronger = answer["table"] == "table5"
    if stronger:
        head[1:1] = ["crops named right", "AP of its priors"]
    body = []
    for row in answer["rows"]:
        measured = [percent(row[key]) for key in ("crops_named", "priors_ap")] if stronger else []
        figures = [
            _spread(row.get(key), row.get(f"{key}_spread")) for key in ("ap50_novel", "ap50_base", "ap50_all")
        ]
        paper = percent(row["paper"])
        paper += f" ({row['paper_teacher']})" if row.get("paper_teacher") else ""
        body.append([row["label"], *measured, *figures, paper])
    return [head, *body]


def sentences(answer: dict[str, Any]) -> list[str]:
    """What the figures say, good or bad."""
    checks = answer["checks"]
    if answer["table"] == "table4":
        if checks["over_plain"] is None:
            return ["not every row is measured yet"]
        over, best = 100 * checks["over_plain"], 100 * checks["over_next"]
        return [
            f"all three together {over:+.1f} points of AP50 novel over plain (the paper: +12.6)",
            f"and {best:+.1f} over the best other row, {checks['next']!r} (the paper: +4.3)",
        ]
    if answer["table"] == "table5":
        if checks["rising"] is None:
            return ["not every teacher is measured yet"]
        return [f"AP50 novel {'rises' if checks['rising'] else 'does not rise'} with every stronger teacher"]
    if answer["table"] == "options":
        return [_told(check, check is checks["rows"][0]) for check in checks["rows"]]
    return [
        f"rho {pair['rho']:g}: L {pair['to']} instead of {pair['from']} changes AP50 novel by "
        f"{_points(pair['difference'])} points ({_points(pair['low'])} to {_points(pair['high'])}): "
        f"{'it differs' if pair['differs'] else 'no difference shown'}"
        for pair in answer["higher_limit"]
    ]


def _parts(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Table 4: all three against plain, and against the best other row."""
    known = {row["label"]: row["ap50_novel"] for row in rows if row.get("ap50_novel") is not None}
    if len(known) < len(rows):
        return {"over_plain": None, "over_next": None, "next": None, "above_every_row": None}
    *others, (_, best) = known.items()
    name, following = max(others, key=lambda pair: pair[1])
    return {
        "over_plain": best - others[0][1],
        "over_next": best - following,
        "next": name,
        "above_every_row": best > following,
    }


def _teachers(rows: list[dict[str, Any]]) -> dict[str, Any]:
    values = [row["ap50_novel"] for row in rows if row.get("ap50_novel") is not None]
    return {"rising": all(a < b for a, b in pairwise(values)) if len(values) == len(rows) else None}


def _limits(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Table 6: by rho, whether AP50 novel falls with every higher L that chance fills up."""
    answer: dict[str, Any] = {}
    for rho in sorted({row["rho"] for row in rows if row["fill"] == "random"}):
        values = [row["ap50_novel"] for row in rows if row["fill"] == "random" and row["rho"] == rho]
        known = None not in values
        answer[f"falls_at_{rho:g}"] = all(a > b for a, b in pairwise(values)) if known else None
    return answer


def _effects(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Of each row of options that has runs: what it adds to the recipe, and what it owes to what it is told.

    added: AP50 over the recipe's run of the same seed, and added_spread. lost: AP50 told the truth over AP50
    told its own priors. kept: the share of AP50 told the truth that is left with nothing told. Of means.
    """
    return {
        "rows": [
            {"label": row["label"], **{split: _effect(rows[0], row, split) for split in ("base", "novel")}}
            for row in rows
            if row["runs"]
        ]
    }


def _effect(recipe: dict[str, Any], row: dict[str, Any], split: str) -> dict[str, float | None]:
    key = f"ap50_{split}"
    pairs = zip(recipe["runs"], row["runs"], strict=False)  # the row's last seed may be still to come
    added = [run[key] - own[key] for own, run in pairs if None not in (own[key], run[key])]
    own, true, none = (row[f"{source}_{key}"] for source in ("own", "oracle", "none"))
    return {
        "added": statistics.fmean(added) if added else None,
        "added_spread": statistics.stdev(added) if len(added) > 1 else None,
        "lost": None if own is None or true is None else true - own,
        "kept": none / true if none is not None and true else None,
    }


def _told(check: dict[str, Any], first: bool) -> str:
    pair = check["base"], check["novel"]
    added = " / ".join(_spread(one["added"], one["added_spread"], _points) for one in pair)
    lost = " / ".join(_points(one["lost"]) for one in pair)
    kept = " / ".join(percent(one["kept"]) for one in pair)
    over = "" if first else f"{added} points over the recipe; "
    return (
        f"{check['label']}: {over}told the truth {lost} points, told nothing {kept}% of AP50 told the truth"
    )


def command(table: str, plan: Plan) -> str:
    """The command that makes the table; of folders outside the working folder only the names."""
    words = ["cckt", "ablate", table, "--recipe", plan.recipe]
    for option, folder in (("--train", plan.train), ("--val", plan.val), ("--run", plan.run)):
        words += [option, _name(folder)] if folder is not None else []
    if plan.train is None and plan.run is None:
        words += ["--photos", str(plan.photos), "--held-out", str(plan.held_out)]
    words += ["--epochs", str(plan.epochs)] if plan.epochs is not None else []
    words += [word for value in plan.overrides for word in ("--set", value)]
    words += [word for row in plan.rows for word in ("--row", row)] if table == "options" else []
    if table == "table6":
        words += [word for rho in plan.rhos for word in ("--rho", f"{rho:g}")]
        words += [word for limit in plan.limits for word in ("--limit", str(limit))]
    else:
        words += ["--seeds", str(plan.seeds)]
    if table == "table5":
        for name in plan.teachers:
            kind, colon, place = name.partition(":")
            local = kind == "local-dir" and colon
            words += ["--teacher", f"local-dir:{_name(Path(place))}" if local else name]
    return shlex.join([*words, "--out", _name(plan.out)])


def machine() -> str:
    """What the figures were made on, without its name."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no GPU"
    return (
        f"{os.cpu_count()} cores ({platform.machine()}), {memory:.0f} GiB, {device}, "
        f"torch {torch.__version__.split('+')[0]}"
    )


def _name(folder: Path) -> str:
    return folder.name if folder.is_absolute() else str(folder)


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(row: dict[str, Any]) -> list[str]:
    figures = [percent(row[key]) for key in ("ap50_novel", "ap50_base", "ap50_all")]
    if row["source"] in ("none", "oracle"):
        told = "no guidance" if row["source"] == "none" else "the annotations"
        return ["–", "–", told, f"{row['present_per_photo']:.1f}", *figures]
    own = " (the run's)" if row["own"] and row["fill"] == "none" else ""
    filled = {"random": "chance", "none": f"nothing{own}"}[row["fill"]]
    return [f"{row['rho']:g}", str(row["limit"]), filled, f"{row['present_per_photo']:.1f}", *figures]


def _leaning(row: dict[str, Any]) -> list[str]:
    """Base and novel as the run scores, and told only, weighing nothing, its own priors and others."""
    answer = []
    for source in ("", "own_", "oracle_", "corrupted_", "none_"):
        keys = (f"{source}ap50_{split}" for split in ("base", "novel"))
        answer.append(" / ".join(_spread(row.get(key), row.get(f"{key}_spread")) for key in keys))
    return answer


def _points(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:+.1f}"


def _spread(mean: float | None, spread: float | None, word: Callable[[float | None], str] = percent) -> str:
    return word(mean) + (f" ± {100 * spread:.1f}" if spread is not None else "")


def _value(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:.0f} minutes"
