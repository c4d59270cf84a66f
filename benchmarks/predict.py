"""Speed of `cckt predict` in this checkout against another one, on the same run and photos, in turn.

    python benchmarks/predict.py RUN PHOTOS --against OTHER_CHECKOUT [--words 65] [--pictures] [--repeats 3]

Each call is a process of its own; the start of Python and the loading of the run are measured with one photo
and subtracted. Prints one JSON line: medians of images/s and of CPU milliseconds per photo, which depend less
on other programs, and the ratios.
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
from pathlib import Path


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--against", type=Path, required=True, help="Another checkout of cckt.")
    parser.add_argument(
        "--words", type=int, default=65, help="Words to name: those of the run, then made up."
    )
    parser.add_argument("--pictures", action="store_true", help="Draw pictures.")
    parser.add_argument("--limit", type=int, default=400, help="Photos.")
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    names = list(json.loads((given.run / "facts.json").read_text())["names"])
    names += [f"thing number {number}" for number in range(len(names), given.words)]
    photos = sorted(path for path in given.photos.iterdir() if path.is_file())[: given.limit]
    here = Path(__file__).resolve().parents[1]
    speeds: dict[str, list[float]] = {"here": [], "there": []}
    work: dict[str, list[float]] = {"here": [], "there": []}
    for _ in range(given.repeats):
        for name, checkout in (("here", here), ("there", given.against.resolve())):
            words = names[: given.words]
            start = measured(checkout, given.run, photos[:1], words, given.pictures)
            whole = measured(checkout, given.run, photos, words, given.pictures)
            speeds[name].append((len(photos) - 1) / max(whole[0] - start[0], 1e-3))
            work[name].append(1000 * (whole[1] - start[1]) / (len(photos) - 1))
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    cpu = {name: statistics.median(values) for name, values in work.items()}
    print(
        json.dumps(
            {
                "photos": len(photos),
                "words": given.words,
                "pictures": given.pictures,
                "images_per_second": {name: round(value, 2) for name, value in medians.items()},
                "ratio": round(medians["here"] / medians["there"], 3),
                "cpu_ms_per_photo": {name: round(value, 1) for name, value in cpu.items()},
                "cpu_ratio": round(cpu["there"] / max(cpu["here"], 1e-3), 3),
                "repeats": given.repeats,
                "cores": os.cpu_count(),
                "load": round(os.getloadavg()[0], 1),
            }
        )
    )


def measured(
    checkout: Path, run: Path, photos: list[Path], words: list[str], pictures: bool
) -> tuple[float, float]:
    """Return the seconds, and the CPU seconds, of one process that predicts on the photos."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "cckt", "predict", str(run.resolve()), "-", "--out", out]
        command += ["--vocabulary", ", ".join(words)] + ([] if pictures else ["--no-pictures"])
        began, before = time.perf_counter(), os.times()
        done = subprocess.run(
            command,
            input="".join(f"{photo.resolve()}\n" for photo in photos),
            cwd=checkout,
            env=os.environ | {"PYTHONPATH": str(checkout)},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"{checkout}: {done.stderr}")
        after = os.times()
        spent = after.children_user - before.children_user + after.children_system - before.children_system
        return time.perf_counter() - began, spent


if __name__ == "__main__":
    main()
