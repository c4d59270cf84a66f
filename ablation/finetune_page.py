"""The table of fine-tuning as text: AP50 of old, new and never annotated concepts, before and after."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

HEADS = {
    "old_base": "old classes",
    "new_base": "new classes",
    "never": "never annotated",
}
"""Group of concepts -> its head."""
Spread = Callable[[float | None, float | None], str]


def finetune_cells(answer: dict[str, Any], over: str, spread: Spread) -> list[list[str]]:
    """Return AP50 before and after the fine-tuning as text, the head first.

    over: words for the seeds. spread: formats mean and deviation.
    """
    head = [f"AP50 before → after, {over}", *HEADS.values()]
    body = []
    for row in answer["rows"]:
        cells = []
        for group in HEADS:
            keys = (f"before_{group}", f"after_{group}")
            cells.append(" → ".join(spread(row.get(key), row.get(f"{key}_spread")) for key in keys))
        body.append([row["label"], *cells])
    return [head, *body]


def finetune_checks(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return, for each row that is measured, AP50 after minus AP50 before of each group; None if unknown."""
    answer: dict[str, Any] = {}
    for row in rows:
        if row["runs"]:
            pairs = {group: (row[f"before_{group}"], row[f"after_{group}"]) for group in HEADS}
            answer[row["label"]] = {
                group: None if None in pair else pair[1] - pair[0] for group, pair in pairs.items()
            }
    return answer


def finetune_sentences(answer: dict[str, Any], points: Callable[[float | None], str]) -> list[str]:
    """Return a sentence on each row that is measured. points: formats a difference."""
    found = [
        f"{label}: {', '.join(f'{head} {points(check[group])}' for group, head in HEADS.items())} points"
        for label, check in answer["checks"].items()
    ]
    return found or ["no row is measured yet"]
