"""The curves of retention as a table, sentences and a picture."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from cckt.cache_builder.base.atomic_files import whole_files

PICTURES = ("svg", "png")
COLOURS = ("#777777", "#1f77b4", "#d62728", "#2ca02c")
Spread = Callable[[float | None, float | None], str]


def retention_cells(answer: dict[str, Any], over: str, spread: Spread) -> list[list[str]]:
    """Return AP50 novel / base of each row at each epoch as text, the head first.

    over: words for the seeds. spread: formats mean and deviation.
    """
    head = [f"AP50 novel / base, {over}", *(f"epoch {mark}" for mark in answer["at"])]
    body = []
    for row in answer["rows"]:
        cells = []
        for mark in answer["at"]:
            point = row["points"].get(str(mark), {})
            keys = ("ap50_novel", "ap50_base")
            cells.append(" / ".join(spread(point.get(key), point.get(f"{key}_spread")) for key in keys))
        body.append([row["label"], *cells])
    return [head, *body]


def retention_checks(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return, for each row that is measured, its best epoch for novel concepts, and what it lost since.

    lost: AP50 novel at the best epoch minus that at the last one; 0 if the last one is the best. falls:
    whether any epoch is below the one before it.
    """
    answer: dict[str, Any] = {}
    for row in rows:
        points = sorted((int(mark), point["ap50_novel"]) for mark, point in row["points"].items())
        known = [(mark, value) for mark, value in points if value is not None]
        if known:
            best = max(known, key=lambda pair: pair[1])
            falls = any(later < before for (_, before), (_, later) in pairwise(known))
            answer[row["label"]] = {"best_epoch": best[0], "lost": best[1] - known[-1][1], "falls": falls}
    return answer


def retention_sentences(answer: dict[str, Any]) -> list[str]:
    """Return a sentence on each row that is measured."""
    found = []
    for label, check in answer["checks"].items():
        if check["lost"] > 0:
            points = f"{100 * check['lost']:.1f} points"
            end = f"its last epoch is {points} below its best, epoch {check['best_epoch']}"
        else:
            end = "its last epoch is its best" + (", though the curve falls before" if check["falls"] else "")
        found.append(f"{label}, AP50 novel: {end}")
    return found or ["no row is measured yet"]


def draw(answer: dict[str, Any], out: Path) -> list[Path]:
    """Draw AP50 of novel and base concepts against epochs to OUT/retention.svg and .png; return the files.

    Equal answers give equal SVGs.
    """
    import matplotlib
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, split in zip(figure.subplots(1, 2), ("novel", "base"), strict=True):
        for row, colour in zip(answer["rows"], COLOURS, strict=False):
            points = sorted((int(mark), point) for mark, point in row["points"].items())
            known = [(mark, point) for mark, point in points if point[f"ap50_{split}"] is not None]
            if not known:
                continue
            heights = [100 * point[f"ap50_{split}"] for _, point in known]
            spreads = [100 * (point[f"ap50_{split}_spread"] or 0.0) for _, point in known]
            axes.errorbar(
                [mark for mark, _ in known],
                heights,
                yerr=spreads,
                color=colour,
                marker="o",
                capsize=2,
                label=row["label"],
            )
        axes.set_xscale("log", base=2)
        axes.set_xticks(answer["at"], labels=[str(mark) for mark in answer["at"]])
        axes.set_xlabel("epochs")
        axes.set_ylabel(f"AP50 {split}, percent")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    if handles:
        figure.axes[0].legend(handles, labels, fontsize="small")
    files = []
    for kind in PICTURES:
        path = out / f"retention.{kind}"
        # A fixed salt and no date: equal figures give equal files.
        with matplotlib.rc_context({"svg.hashsalt": "cckt"}):
            metadata = {"Date": None} if kind == "svg" else {"Software": None}
            with whole_files(path) as (file,):
                figure.savefig(file, format=kind, metadata=metadata, dpi=120)
        files.append(path)
    return files
