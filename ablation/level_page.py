"""The table of levels as text: AP50, what becomes of the novel objects, and comparisons of the rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

OBJECTS = {
    "recalled": "recalled",
    "selected": "selected",
    "base": "called base",
    "novel": "called another novel",
    "correct": "called right",
}
"""Count of novel objects -> head of its column (docs/method/hd_ovd.md, section 10)."""
LEVELS = ("instance", "class", "image")
NOTES = (
    "Only the marked rows weigh scores by the priors of the photos; where guidance is on, CCKT-Det and the "
    "hybrid are guided by them in every row.",
    "Novel objects: those that some detection overlaps (IoU 0.5); of these, those whose best detection is "
    "kept at the score of the best F1; and what they are called.",
)


def level_cells(
    answer: dict[str, Any], over: str, spread: Callable[[float | None, float | None], str]
) -> list[list[str]]:
    """Return the table as text, its head first.

    over: words for the seeds. spread: formats mean and deviation.
    """
    objects = next((row["novel_objects"] for row in answer["rows"] if "novel_objects" in row), None)
    of = f" of {objects:.0f}" if objects is not None else ""
    first, *others = OBJECTS.values()
    head = ["", f"AP50 novel, {over}", "base", "all", f"novel objects{of}: {first}", *others]
    body = []
    for row in answer["rows"]:
        figures = [
            spread(row.get(key), row.get(f"{key}_spread")) for key in ("ap50_novel", "ap50_base", "ap50_all")
        ]
        body.append([row["label"], *figures, *(_count(row, f"novel_{name}") for name in OBJECTS)])
    return [head, *body]


def level_checks(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the comparisons of AP50 novel, each None until its rows are measured.

    over_base: row -> difference from the base detector. levels_add: whether each level alone is above it;
    all_above_each: whether all levels are above each alone; hybrid_above_both: whether the hybrid is above
    HD-OVD and CCKT-Det; novel_of_base: AP50 novel of the hybrid as a share of its AP50 base, with priors
    weighed in where that row exists.
    """
    known = {row["key"]: row for row in rows}
    novel = {key: row["ap50_novel"] for key, row in known.items() if row.get("ap50_novel") is not None}

    def compare(first: tuple[str, ...], second: tuple[str, ...]) -> bool | None:
        if not {*first, *second} <= novel.keys():
            return None
        return bool(min(novel[key] for key in first) > max(novel[key] for key in second))

    hybrid = known.get("hybrid-priors", known.get("hybrid", {}))
    share = None
    if hybrid.get("ap50_novel") is not None and hybrid.get("ap50_base"):
        share = hybrid["ap50_novel"] / hybrid["ap50_base"]
    over = {key: value - novel["base"] for key, value in novel.items() if "base" in novel and key != "base"}
    return {
        "over_base": over,
        "levels_add": compare(LEVELS, ("base",)),
        "all_above_each": compare(("all",), LEVELS),
        "hd_ovd_above_cckt": compare(("all",), ("cckt",)),
        "hybrid_above_both": compare(("hybrid",), ("all", "cckt")),
        "novel_of_base": share,
    }


def level_sentences(answer: dict[str, Any], points: Callable[[float | None], str]) -> list[str]:
    """Return sentences that compare the rows. points: formats a difference."""
    checks = answer["checks"]
    labels = {row["key"]: row["label"] for row in answer["rows"]}
    if any(row.get("ap50_novel") is None for row in answer["rows"]):
        return ["some rows are not measured yet"]
    lines = [
        f"{labels[key]}: {points(value)} points of AP50 novel over the base detector"
        for key, value in checks["over_base"].items()
    ]
    for name, words in (
        ("levels_add", "every level alone adds AP50 novel"),
        ("all_above_each", "all levels together are above each alone"),
        ("hd_ovd_above_cckt", "HD-OVD is above CCKT-Det"),
        ("hybrid_above_both", "the hybrid is above HD-OVD and CCKT-Det"),
    ):
        lines.append(f"{words}: {'yes' if checks[name] else 'no'}")
    if checks["novel_of_base"] is not None:
        lines.append(f"the hybrid's AP50 novel is {checks['novel_of_base']:.2f} of its AP50 base")
    return lines


def _count(row: dict[str, Any], key: str) -> str:
    return "–" if row.get(key) is None else f"{row[key]:.0f}"
