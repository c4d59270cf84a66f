"""Speed of `cckt predict` in this checkout against another one, on the same run and photos, in turn.

    python benchmarks/predict.py RUN PHOTOS --against OTHER_CHECKOUT [--words 65] [--pictures] [--repeats 3]

Each call is a process of its own; the start of Python and the loading of the run are measured with one photo
and subtracted. Prints one JSON line: medians of images/s, and the ratio.
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
    here, speeds = Path(__file__).resolve().parents[1], {"here": [], "there": []}
    for _ in range(given.repeats):
        for name, checkout in (("here", here), ("there", given.against.resolve())):
            start = seconds(checkout, given.run, photos[:1], names[: given.words], given.pictures)
            whole = seconds(checkout, given.run, photos, names[: given.words], given.pictures)
            speeds[name].append((len(photos) - 1) / max(whole - start, 1e-3))
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    print(
        json.dumps(
            {
                "photos": len(photos),
                "words": given.words,
                "pictures": given.pictures,
                "images_per_second": {name: round(value, 2) for name, value in medians.items()},
                "ratio": round(medians["here"] / medians["there"], 3),
                "repeats": given.repeats,
                "cores": os.cpu_count(),
                "load": round(os.getloadavg()[0], 1),
            }
        )
    )


def seconds(checkout: Path, run: Path, photos: list[Path], words: list[str], pictures: bool) -> float:
    """Return the seconds of one process that predicts on the photos."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "cckt", "predict", str(run.resolve()), "-", "--out", out]
        command += ["--vocabulary", ", ".join(words)] + ([] if pictures else ["--no-pictures"])
        began = time.perf_counter()
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
        return time.perf_counter() - began


if __name__ == "__main__":
    main()
