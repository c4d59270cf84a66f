"""Read the training curves of a run from metrics.jsonl."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from cckt.cache_builder.base.untrusted.regular_files import read_regular_text
from cckt.cache_builder.base.untrusted.text import parse_json
from cckt.detector.runs.file_digests import check_recorded
from cckt.detector.runs.log import LOG_FILE

MAX_POINTS = 300
"""Most points of a curve; longer curves are averaged."""


def read_log(run: Path) -> dict[str, Any]:
    """Return kind ("train", "evaluation") -> {"step": [...], figure: [...]}, with lists of equal length.

    {} for a run without a log. Incomplete lines are skipped. If a step was written twice, the last line
    counts.
    """
    path = run / LOG_FILE
    if not path.is_file():
        return {}
    check_recorded(path)
    by_kind: dict[str, dict[int, dict[str, float]]] = {}
    for text in read_regular_text(path, errors="replace").splitlines():
        try:
            line = parse_json(text)
            figures = {k: float(v) for k, v in line.items() if isinstance(v, int | float) and k != "step"}
            by_kind.setdefault(str(line["kind"]), {})[int(line["step"])] = figures
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
            continue
    return {kind: _curves(steps) for kind, steps in by_kind.items()}


def _curves(lines: dict[int, dict[str, float]]) -> dict[str, list[float | None]]:
    """Return the figures of all steps by name, averaged to at most MAX_POINTS points."""
    steps = sorted(lines)
    names = dict.fromkeys(name for step in steps for name in lines[step])
    size = math.ceil(len(steps) / MAX_POINTS) or 1
    parts = [steps[start : start + size] for start in range(0, len(steps), size)]
    curves: dict[str, list[float | None]] = {"step": [float(part[-1]) for part in parts]}
    for name in names:
        curves[name] = [_finite_mean([lines[step].get(name, math.nan) for step in part]) for part in parts]
    return curves


def _finite_mean(values: list[float]) -> float | None:
    """Return the mean of the finite values; None if there are none."""
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else None
