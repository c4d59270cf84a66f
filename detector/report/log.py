"""The curves of a run, from its metrics.jsonl."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

POINTS = 300
"""Of a curve; longer ones are averaged down to so many."""


def read_log(run: Path) -> dict[str, Any]:
    """kind ("train", "evaluation") -> {"step": [...], figure: [...]}, each figure as long as its steps.

    {} for a run without a log. Lines that are torn are left out; of a step that was written twice, the last
    counts.
    """
    path = run / "metrics.jsonl"
    if not path.is_file():
        return {}
    lines: dict[str, dict[int, dict[str, float]]] = {}
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
            figures = {k: float(v) for k, v in line.items() if isinstance(v, int | float) and k != "step"}
            lines.setdefault(str(line["kind"]), {})[int(line["step"])] = figures
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
    return {kind: _columns(steps) for kind, steps in lines.items()}


def _columns(lines: dict[int, dict[str, float]]) -> dict[str, list[float | None]]:
    steps = sorted(lines)
    names = dict.fromkeys(name for step in steps for name in lines[step])
    size = math.ceil(len(steps) / POINTS) or 1
    parts = [steps[at : at + size] for at in range(0, len(steps), size)]
    answer: dict[str, list[float | None]] = {"step": [float(part[-1]) for part in parts]}
    for name in names:
        answer[name] = [_mean([lines[step].get(name, math.nan) for step in part]) for part in parts]
    return answer


def _mean(values: list[float]) -> float | None:
    known = [value for value in values if math.isfinite(value)]
    return sum(known) / len(known) if known else None
