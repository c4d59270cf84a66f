"""Speed of `cckt predict` in this checkout against another version, on the same run and photos, in turn.

    python benchmarks/predict.py RUN PHOTOS --against COMMIT_OR_CHECKOUT
        [--cases pictures,65,3,1203] [--limit 400] [--repeats 3]

A case is "pictures" (65 words, pictures drawn) or a number of words without pictures: those of the run, then
made-up ones. COMMIT is checked out into a temporary worktree. Each call is a process of its own. RUN must be
readable by both versions. Text embeddings are not kept between calls (CCKT_CACHE=off); the case "1203 again"
keeps them, as a second call of a user does.

Prints one JSON line. For each case, as medians: images/s as the command itself prints them, which includes
text embeddings and excludes the start of Python and the loading of run and teacher; seconds and CPU seconds
of the whole process; and the ratios, above 1 if this checkout is faster.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
FIGURES = ("images_per_second", "seconds", "cpu_seconds")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--against", required=True, help="A commit of this repository, or another checkout.")
    parser.add_argument("--cases", default="pictures,65,3,1203,1203 again")
    parser.add_argument("--limit", type=int, default=400, help="Photos.")
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    photos = sorted(path for path in given.photos.iterdir() if path.is_file())[: given.limit]
    names = list(json.loads((given.run / "facts.json").read_text())["names"])
    names += [f"thing number {number}" for number in range(len(names), 1203)]
    cases = {}
    with checkout_of(given.against) as there, tempfile.TemporaryDirectory() as kept:
        for case in given.cases.split(","):
            words = names[: 65 if case == "pictures" else int(case.split()[0])]
            cache = kept if case.endswith("again") else "off"
            measured: dict[str, list[dict[str, float]]] = {"here": [], "there": []}
            if case.endswith("again"):
                measure(HERE, given.run, photos[:1], words, False, cache)
            for _ in range(given.repeats):
                for side, checkout in (("here", HERE), ("there", there)):
                    one = measure(checkout, given.run, photos, words, case == "pictures", cache)
                    measured[side].append(one)
            cases[case] = summary(measured)
    load = round(os.getloadavg()[0], 1)
    facts = {"photos": len(photos), "repeats": given.repeats, "against": given.against}
    print(json.dumps(facts | {"cases": cases, "cores": os.cpu_count(), "load": load}))


def summary(measured: dict[str, list[dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Return medians and ratios of a case."""
    result: dict[str, dict[str, float]] = {}
    for figure in FIGURES:
        here, there = (statistics.median(one[figure] for one in measured[side]) for side in ("here", "there"))
        ratio = here / there if figure == "images_per_second" else there / here
        result[figure] = {"here": round(here, 2), "there": round(there, 2), "ratio": round(ratio, 2)}
    return result


@contextmanager
def checkout_of(version: str) -> Iterator[Path]:
    """Yield a checkout: the folder `version`, or a temporary worktree of a commit."""
    if Path(version).is_dir():
        yield Path(version).resolve()
        return
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "checkout"
        subprocess.run(
            ["git", "worktree", "add", "--quiet", "--detach", str(place), version], cwd=HERE, check=True
        )
        try:
            yield place
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(place)], cwd=HERE, check=True)


def measure(
    checkout: Path, run: Path, photos: list[Path], words: list[str], pictures: bool, cache: str
) -> dict[str, float]:
    """Return the figures of one process that predicts on the photos."""
    program = ["-m", "cckt"] if (checkout / "cckt").is_dir() else ["cli.py"]  # before it was one package
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, *program, "predict", str(run.resolve()), "-", "--out", out]
        command += ["--vocabulary", ", ".join(words), "--json", str(Path(out) / "figures.json")]
        command += [] if pictures else ["--no-pictures"]
        began, before = time.perf_counter(), os.times()
        done = subprocess.run(
            command,
            input="".join(f"{photo.resolve()}\n" for photo in photos),
            cwd=checkout,
            env=os.environ | {"PYTHONPATH": str(checkout), "CCKT_CACHE": cache},
            capture_output=True,
            text=True,
            check=False,
        )
        seconds, after = time.perf_counter() - began, os.times()
        if done.returncode:
            raise SystemExit(f"{checkout}: {done.stderr}")
        figures = json.loads((Path(out) / "figures.json").read_text())
        spent = after.children_user - before.children_user + after.children_system - before.children_system
    return {
        "images_per_second": figures["images_per_second"],
        "seconds": seconds,
        "cpu_seconds": spent,
    }


if __name__ == "__main__":
    main()
