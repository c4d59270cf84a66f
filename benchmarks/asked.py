"""What `cckt predict` finds for a few words at its threshold, on a run and a data set.

Claims, for words drawn 200 times, present in a photo or not: precision at least .70 for base and .50 for
novel words, at most 0.1 false finds of absent words per photo, at most 5 points of recall lost against all
words together, calibration error (ECE) at most .08.

    python benchmarks/asked.py RUN DATA [--words 3 1 8] [--draws 200] [--confirm K]

The run's own calibration sets the threshold. RUN is only read: the evaluation goes to a temporary folder.
Prints one JSON line: for each number of words precision and recall of base and novel, absent_finds_per_photo,
recall_lost (points, all words) and ece; "missed", the claims that do not hold; draws, photos, cpu_seconds.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from cckt.api import confirmation
from cckt.detector.evaluation.evaluate import evaluate_run

LEAST = {"base": 0.70, "novel": 0.50}
"""Precision."""
MOST_ABSENT, MOST_LOST, MOST_ECE = 0.1, 0.05, 0.08


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--words", type=int, nargs="+", default=[3, 1, 8])
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--confirm", type=int, default=0, help="Boxes that the teacher looks at.")
    given = parser.parse_args()
    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        metrics = evaluate_run(
            given.run,
            given.data,
            asked=given.words,
            draws=given.draws,
            confirm=confirmation(given.run, given.confirm),
            out=Path(folder) / "evaluation",
        )
    asked = metrics.figures["asked"]
    by_words = {one["words"]: summary(one) for one in ([asked] if isinstance(asked, dict) else asked)}
    figures = {
        "words": by_words,
        "missed": [f"{words} words: {claim}" for words, one in by_words.items() for claim in missed(one)],
        "draws": given.draws,
        "photos": metrics.photos,
        "confirm": given.confirm,
        "cpu_seconds": round(time.process_time() - began, 1),
    }
    print(json.dumps(figures))


def summary(figures: dict[str, Any]) -> dict[str, Any]:
    """Return the figures of one number of words that have a claim."""
    short: dict[str, Any] = {}
    for split in ("base", "novel"):
        for name in ("precision", "recall", "finds"):
            short[f"{name}_{split}"] = figures[split][name]
    together, alone = figures["all"]["recall_with_all_words"], figures["all"]["recall"]
    short["recall_lost"] = None if None in (together, alone) else together - alone
    short |= {name: figures[name] for name in ("absent_finds_per_photo", "ece", "threshold")}
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in short.items()}


def missed(short: dict[str, Any]) -> list[str]:
    """Return the claims that the figures of one number of words do not meet; None meets none."""

    def above(name: str, most: float) -> bool:
        return short[name] is None or short[name] > most

    claims = [
        f"precision_{split} is below {least}"
        for split, least in LEAST.items()
        if short[f"precision_{split}"] is None or short[f"precision_{split}"] < least
    ]
    limits = {"absent_finds_per_photo": MOST_ABSENT, "recall_lost": MOST_LOST, "ece": MOST_ECE}
    return claims + [f"{name} is above {most}" for name, most in limits.items() if above(name, most)]


if __name__ == "__main__":
    main()
