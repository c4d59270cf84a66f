"""Recipe photos-small from end to end on real photos: columns, training, evaluation, prediction, export.

Claims: training, evaluation, prediction and export of some 100 photos in under 10 minutes of 2 cores; at
least 4 images/s in training there.

    python benchmarks/photos_small.py --train A.json PHOTOS --val B.json PHOTOS \\
        [--split coco-48-17] [--teacher shapeworld] [--set model.backbone_weights=FILE] [--threads 2]
        [--recipe photos-small] [--epochs auto] [--max-steps N]
    python benchmarks/photos_small.py --columns TRAIN VAL ...

--train, --val: a COCO-format file and the folder of its photos; --columns: data sets with columns instead.
Every step is a `cckt` command of its own, in a temporary folder. Prints one JSON line:

    minutes                 wall time of train, evaluation, predict and export together
    seconds, cpu_seconds    by command; "columns" (index and teacher, made once) is not part of minutes
    train_images_per_s      as `cckt train` reports it
    train_cpu_s_per_image   CPU seconds of `cckt train` per image that it trained on, start and evaluation too
    peak_mib                largest memory of each command
    ap50_all, detections, photos, steps, threads, load
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import tomllib
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any


@dataclass
class Commands:
    """Runs `cckt` commands and keeps their cost by name."""

    threads: int
    seconds: dict[str, float] = field(default_factory=dict)
    cpu: dict[str, float] = field(default_factory=dict)
    peak: dict[str, float] = field(default_factory=dict)

    def run(self, name: str, *words: object) -> dict[str, Any]:
        """Run a command to its end and return its figures. Several commands may have one name."""
        environment = os.environ | {"OMP_NUM_THREADS": str(self.threads), "GOMP_SPINCOUNT": "0"}
        command = [sys.executable, "-m", "cckt", *map(str, words), "--quiet"]
        began = time.monotonic()
        with tempfile.TemporaryFile("w+") as answer:
            process = subprocess.Popen(command, env=environment, stdout=answer)
            _, status, used = os.wait4(process.pid, 0)
            if status:
                raise SystemExit(f"{' '.join(command)}: ended with {os.waitstatus_to_exitcode(status)}")
            answer.seek(0)
            text = answer.read()
        self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - began
        self.cpu[name] = self.cpu.get(name, 0.0) + used.ru_utime + used.ru_stime
        self.peak[name] = max(self.peak.get(name, 0.0), used.ru_maxrss / 1024)
        figures: dict[str, Any] = json.loads(text) if "--json" in words else {}
        return figures


def main() -> None:
    """Run every command and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--train", nargs=2, metavar=("FILE", "PHOTOS"))
    parser.add_argument("--val", nargs=2, metavar=("FILE", "PHOTOS"))
    parser.add_argument("--columns", nargs=2, type=Path, metavar=("TRAIN", "VAL"))
    parser.add_argument("--split", default="coco-48-17")
    parser.add_argument("--teacher", default="shapeworld")
    parser.add_argument("--recipe", default="photos-small")
    parser.add_argument("--epochs", default="auto")
    parser.add_argument("--max-steps", type=int, help="Stop the training earlier, for a trial.")
    parser.add_argument("--set", action="append", default=[], help="Option of the recipe.")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    if given.columns is None and None in (given.train, given.val):
        parser.error("give --train and --val, or --columns")
    if find_spec("onnx") is None:  # before minutes of training
        parser.error("the export needs the package onnx; run pip install '.[export]'")
    load = os.getloadavg()[0]
    commands = Commands(given.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        train, val = given.columns or (folder / "train", folder / "val")
        for part, keep in () if given.columns else (("train", "base"), ("val", "all")):
            file, photos = getattr(given, part)
            words = ["--annotations", file, "--images", photos, "--split", given.split, "--keep", keep]
            commands.run("columns", "data", "index", *words, "--out", folder / part)
            commands.run("columns", "cache", "all", folder / part, "--teacher", given.teacher)
        options = [word for one in given.set for word in ("--set", one)]
        if given.max_steps:
            options += ["--max-steps", str(given.max_steps)]
        run, json_out = folder / "run", ("--json", "-")
        data = ["--train", train, "--val", val]
        length = ["--recipe", given.recipe, "--epochs", given.epochs]
        trained = commands.run("train", "train", *length, *data, "--out", run, *options, *json_out)
        scored = commands.run("eval", "eval", run, "--data", val, *json_out)
        found = commands.run("predict", "predict", run, "--data", val, "--out", folder / "f", *json_out)
        vocabulary = ["--vocabulary", "person, dog, car"]
        commands.run("export", "export", run, *vocabulary, "--out", folder / "d.onnx", "--size", "320x320")
        batch = tomllib.loads((run / "config.toml").read_text())["train"]["batch"]
    measured = [one for one in commands.seconds if one != "columns"]
    images = trained["step"] * batch
    figures = {
        "minutes": round(sum(commands.seconds[one] for one in measured) / 60, 2),
        "seconds": {one: round(value, 1) for one, value in commands.seconds.items()},
        "cpu_seconds": {one: round(value, 1) for one, value in commands.cpu.items()},
        "train_images_per_s": round(trained["images_per_s"], 2),
        "train_cpu_s_per_image": round(commands.cpu["train"] / images, 3),
        "peak_mib": {one: round(value) for one, value in commands.peak.items()},
        "ap50_all": scored["ap50_all"],
        "detections": found["finds"],
        "photos": found["photos"],
        "steps": trained["step"],
        "threads": given.threads,
        "load": round(load, 2),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
