"""Tables of an ablation as JSON and Markdown, with the paper's figures next to ours."""

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

from cckt.ablation.finetune_page import finetune_cells, finetune_checks, finetune_sentences
from cckt.ablation.level_page import NOTES, level_cells, level_checks, level_sentences
from cckt.ablation.plan import ROW_TABLES, ROWS, WITH_PROPOSALS, AblationPlan
from cckt.ablation.retention_page import retention_cells, retention_checks, retention_sentences
from cckt.cache_builder.base.atomic_files import plain, write_bytes, write_json
from cckt.detector.evaluation.metrics import percent

TITLES = {
    "table4": "Table 4: effect of each part of the method",
    "table5": "Table 5: effect of a stronger teacher",
    "table6": "Table 6: effect of rho and L with random fill",
    "options": "Effect of options, and dependence on the guidance",
    "levels": "Levels of HD-OVD, CCKT-Det and their hybrid",
    "retention": "AP50 against epochs: what is kept of words that are never annotated",
    "finetune": "Fine-tuning on new classes: what is kept",
}


def save(plan: AblationPlan, answer: dict[str, Any]) -> None:
    """Write OUT/TABLE.json and OUT/TABLE.md; add command, machine, seconds and checks to the answer."""
    table = answer["table"]
    checks = {
        "table4": _parts,
        "table5": _teachers,
        "table6": _limits,
        "options": _effects,
        "levels": level_checks,
        "retention": retention_checks,
        "finetune": finetune_checks,
    }[table]
    answer |= {"command": command(table, plan), "machine": machine()}
    if "seconds" not in answer or table != "table6":
        answer["seconds"] = sum(row.get("seconds", 0.0) for row in answer["rows"])
    answer["checks"] = checks(answer["rows"])
    write_json(plan.out / f"{table}.json", answer)
    write_bytes(plan.out / f"{table}.md", page(plain(answer)).encode())


def page(answer: dict[str, Any]) -> str:
    """Return the contents of TABLE.json as Markdown."""
    table = answer["table"]
    lines = [f"## {TITLES[table]}", "", f"`{answer['command']}`", ""]
    lines += [f"{_minutes(answer['seconds'])} on {answer['machine']}. AP50 in percent.", ""]
    head, *body = rows(answer)
    lines += [_line(head), _line(["---"] * len(head)), *map(_line, body), ""]
    lines += [f"* {sentence}" for sentence in sentences(answer)]
    if table == "retention":
        lines += ["", "![AP50 against epochs](retention.svg)"]
    if table in ("table4", "levels"):
        notes = [_shared_training()] if table == "table4" else NOTES
        lines += ["", *notes, "", "Options in which the rows differ from the recipe:", ""]
        for row in answer["rows"]:
            options = ", ".join(f"{name}={_value(value)}" for name, value in row["options"].items())
            lines.append(f"* {row['label']}: {options or 'none'}")
    return "\n".join(lines) + "\n"


def rows(answer: dict[str, Any]) -> list[list[str]]:
    """Return the table as text, its head first."""
    if answer["table"] == "table6":
        head = [
            "rho",
            "L",
            "fill",
            "present per image",
            "AP50 novel",
            "base",
            "all",
            "the paper's novel",
        ]
        return [head, *([*_cell(row), percent(row["paper"])] for row in answer["rows"])]
    seeds = max((len(row["runs"]) for row in answer["rows"]), default=0)
    over = f"{seeds} seed{'s' * (seeds != 1)}"
    if answer["table"] == "options":
        head = ["", f"AP50 base / novel, {over}"]
        head += ["guided by priors", "by annotations", "by corrupted ones", "unguided"]
        return [head, *([row["label"], *_by_guidance(row)] for row in answer["rows"])]
    if answer["table"] == "levels":
        return level_cells(answer, over, _spread)
    if answer["table"] == "retention":
        return retention_cells(answer, over, _spread)
    if answer["table"] == "finetune":
        return finetune_cells(answer, over, _spread)
    head = ["", f"AP50 novel, {over}", "base", "all", "the paper's novel"]
    stronger = answer["table"] == "table5"
    if stronger:
        head[1:1] = ["crops named correctly", "AP of its priors"]
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
    """Return sentences that compare the figures."""
    checks = answer["checks"]
    if answer["table"] == "table4":
        if checks["over_plain"] is None:
            return ["some rows are not measured yet"]
        over, best = 100 * checks["over_plain"], 100 * checks["over_next"]
        return [
            f"all three parts: {over:+.1f} points of AP50 novel over the plain detector (the paper: +12.6)",
            f"and {best:+.1f} over the best other row, {checks['next']!r} (the paper: +4.3)",
        ]
    if answer["table"] == "table5":
        if checks["rising"] is None:
            return ["some teachers are not measured yet"]
        return [f"AP50 novel {'rises' if checks['rising'] else 'does not rise'} with every stronger teacher"]
    if answer["table"] == "levels":
        return level_sentences(answer, _points)
    if answer["table"] == "retention":
        return retention_sentences(answer)
    if answer["table"] == "finetune":
        return finetune_sentences(answer, _points)
    if answer["table"] == "options":
        return [_effect_sentence(check, check is checks["rows"][0]) for check in checks["rows"]]
    return [
        f"rho {pair['rho']:g}: L {pair['to']} instead of {pair['from']} changes AP50 novel by "
        f"{_points(pair['difference'])} points ({_points(pair['low'])} to {_points(pair['high'])}): "
        f"{'it differs' if pair['differs'] else 'no difference shown'}"
        for pair in answer["higher_limit"]
    ]


def _parts(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return, for Table 4, all three parts against plain and against the best other row."""
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
    """Return, for Table 6 and by rho, whether AP50 novel falls with every higher L at random fill."""
    answer: dict[str, Any] = {}
    for rho in sorted({row["rho"] for row in rows if row["fill"] == "random"}):
        values = [row["ap50_novel"] for row in rows if row["fill"] == "random" and row["rho"] == rho]
        known = None not in values
        answer[f"falls_at_{rho:g}"] = all(a > b for a, b in pairwise(values)) if known else None
    return answer


def _effects(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return, for each row of options that has runs, its effect and its dependence on the guidance.

    added: mean difference in AP50 from the recipe's run of the same seed; added_spread: its deviation. lost:
    AP50 guided by annotations minus AP50 guided by its own priors. kept: unguided AP50 as a share of AP50
    guided by annotations. lost and kept are of the means over seeds.
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
    pairs = zip(recipe["runs"], row["runs"], strict=False)  # the row's last seed may be missing
    added = [run[key] - own[key] for own, run in pairs if None not in (own[key], run[key])]
    own, true, none = (row[f"{source}_{key}"] for source in ("own", "oracle", "none"))
    return {
        "added": statistics.fmean(added) if added else None,
        "added_spread": statistics.stdev(added) if len(added) > 1 else None,
        "lost": None if own is None or true is None else true - own,
        "kept": none / true if none is not None and true else None,
    }


def _effect_sentence(check: dict[str, Any], is_recipe: bool) -> str:
    pair = check["base"], check["novel"]
    added = " / ".join(_spread(one["added"], one["added_spread"], _points) for one in pair)
    lost = " / ".join(_points(one["lost"]) for one in pair)
    kept = " / ".join(percent(one["kept"]) for one in pair)
    over = "" if is_recipe else f"{added} points over the recipe; "
    return (
        f"{check['label']}: {over}with annotations instead of priors {lost} points; unguided {kept}% of AP50 "
        "with annotations"
    )


def _shared_training() -> str:
    """Return the sentence on the rows of Table 4 that score the same training."""
    labels = {row.key: row.label for row in ROWS}
    pairs = [f"'{row.label}' and '{labels[row.scored_from]}'" for row in ROWS if row.scored_from]
    return f"The rows {', '.join(pairs)} are one training, scored by the class head and by similarity."


def command(table: str, plan: AblationPlan) -> str:
    """Return the command that makes the table; folders outside the working folder by name only."""
    words = ["cckt", "ablate", table, "--recipe", plan.recipe]
    for option, folder in (("--train", plan.train), ("--val", plan.val), ("--run", plan.run)):
        words += [option, _name(folder)] if folder is not None else []
    if plan.train is None and (plan.run is None or table != "table6"):
        words += ["--photos", str(plan.photos), "--held-out", str(plan.held_out)]
    words += ["--epochs", str(plan.epochs)] if plan.epochs is not None else []
    words += [word for value in plan.overrides for word in ("--set", value)]
    words += [word for row in plan.rows for word in ("--row", row)] if table in ROW_TABLES else []
    if table == "table6":
        words += [word for rho in plan.rhos for word in ("--rho", f"{rho:g}")]
        words += [word for limit in plan.limits for word in ("--limit", str(limit))]
    else:
        words += ["--seeds", str(plan.seeds)]
    words += [word for mark in plan.at for word in ("--at", str(mark))] if table == "retention" else []
    if plan.train is None and table in WITH_PROPOSALS and plan.started().data.proposals:
        words += ["--top", str(plan.top)]
        words += ["--nouns-from", _name(plan.nouns_from)] if plan.nouns_from is not None else []
    if table == "table5":
        for name in plan.teachers:
            kind, colon, place = name.partition(":")
            local = kind == "local-dir" and colon
            words += ["--teacher", f"local-dir:{_name(Path(place))}" if local else name]
    return shlex.join([*words, "--out", _name(plan.out)])


def machine() -> str:
    """Return what the figures were measured on, without a host name."""
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
        fill = "no guidance" if row["source"] == "none" else "the annotations"
        return ["–", "–", fill, f"{row['present_per_photo']:.1f}", *figures]
    own = " (the run's)" if row["own"] and row["fill"] == "none" else ""
    fill = {"random": "random", "none": f"none{own}"}[row["fill"]]
    return [f"{row['rho']:g}", str(row["limit"]), fill, f"{row['present_per_photo']:.1f}", *figures]


def _by_guidance(row: dict[str, Any]) -> list[str]:
    """Return AP50 base / novel as the run scores, then under each kind of guidance without prior weight."""
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
