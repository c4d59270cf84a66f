"""Compare a training step that reads targets from columns with one that takes them from a random tensor.

Claim: reading the columns makes a step at most 1.01 times as long.
Peer: the same step with rows of one random tensor in memory, the cheapest possible targets.

    OMP_NUM_THREADS=1 python benchmarks/column_step.py [--pairs 150] [--photos 64] [--folder DIR]

Renders a small shapeworld data set, caches text and crops, and takes complete steps of the recipe
`shapeworld` (batch 16: read, augment, collate, forward, match, losses, backward, update) with two equal
models that see the same images in the same order. The models alternate. Prints one JSON line:

    step_ratio                  median over the pairs of (step with columns) / (step with random tensor)
    step_ratio_interval         95% bootstrap interval of that median
    quartiles                   quartiles of the ratios of the pairs
    column_step_ms, random_step_ms          median times of a step
    column_targets_ms, random_targets_ms    median times spent taking targets in a step
    targets_share               (column_targets_ms - random_targets_ms) / random_step_ms: the cost of columns,
                                less affected by other load on the machine than the ratio
    pairs, photos, boxes, torch_threads, load
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cckt.cache_builder.columns.all_at_once import cache_photos
from cckt.cache_builder.columns.text import cache_text
from cckt.detector.config.config import apply_overrides
from cckt.detector.config.recipes import recipe
from cckt.detector.data.batch import collate
from cckt.detector.data.row_source import RowSource, SampleView
from cckt.detector.data.schedule import Schedule
from cckt.detector.data.teacher_rows import CropRows
from cckt.detector.ranks.world import World
from cckt.detector.students.targets import TeacherRows
from cckt.detector.training.preflight import gather
from cckt.detector.training.run import Run
from cckt.shapeworld.dataset import make_dataset


class TimedTargets(RowSource):
    """Distillation targets, with the time spent taking them.

    source: the crops of a run, or a tensor of random rows.
    """

    def __init__(self, source: RowSource | Tensor) -> None:
        self.source, self.seconds = source, 0.0
        self.columns = [] if isinstance(source, Tensor) else source.columns

    def take(self, view: SampleView, random: np.random.Generator) -> TeacherRows:
        """Take rows like `CropRows.take`."""
        began = time.perf_counter()
        if isinstance(self.source, Tensor):
            known = torch.ones(len(view.objects), dtype=torch.bool)
            taken = TeacherRows(self.source[torch.from_numpy(view.objects)], known)
        else:
            taken = self.source.take(view, random)
        self.seconds += time.perf_counter() - began
        return taken


def main() -> None:
    """Measure and print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=150)
    parser.add_argument("--photos", type=int, default=64)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        print(json.dumps(measure(Path(folder), options.photos, options.pairs)))


def measure(folder: Path, photos: int, pairs: int) -> dict[str, object]:
    """Make the data, take alternating steps of both models, and return the figures."""
    data = folder / "data"
    make_dataset(data, photos, 5, keep="base")
    cache_text(data, "shapeworld", device="cpu")
    cache_photos(data, "shapeworld", kinds=("crops",), device="cpu")
    config = apply_overrides(recipe("shapeworld"), ["train.device=cpu"])
    world = World(0, 1, torch.device("cpu"))
    runs, targets = [], []
    for random in (False, True):
        ingredients = gather(config, data)
        crops = ingredients.photos.rows["crop"]
        assert isinstance(crops, CropRows)
        made = torch.nn.functional.normalize(
            torch.randn(len(crops.upright[0]), crops.upright[0].width), dim=1
        )
        targets.append(TimedTargets(made if random else crops))
        ingredients.photos.rows["crop"] = targets[-1]
        runs.append(Run(config, ingredients, folder / "run", world))
    warm = 5
    schedule = Schedule(photos, 0, config.train.batch, last_step=pairs + warm)
    took: list[list[float]] = [[], []]
    spent: list[list[float]] = [[], []]
    for step, places in enumerate(schedule):
        for side in (0, 1) if step % 2 else (1, 0):
            targets[side].seconds = 0.0
            began = time.perf_counter()
            source = runs[side].ingredients.photos
            result = runs[side].stepper([collate([source[place] for place in places])], step)
            assert result.finite
            if step >= warm:
                took[side].append((time.perf_counter() - began) * 1000)
                spent[side].append(targets[side].seconds * 1000)
    ratios = np.array(took[0]) / np.array(took[1])
    draws = np.random.default_rng(0).choice(ratios, (2000, len(ratios)))
    low, high = np.quantile(np.median(draws, axis=1), (0.025, 0.975))
    step_ms, targets_ms = [[statistics.median(side) for side in both] for both in (took, spent)]
    return {
        "step_ratio": round(float(np.median(ratios)), 4),
        "step_ratio_interval": [round(float(low), 4), round(float(high), 4)],
        "quartiles": [round(float(q), 4) for q in np.quantile(ratios, (0.25, 0.75))],
        "column_step_ms": round(step_ms[0], 2),
        "random_step_ms": round(step_ms[1], 2),
        "column_targets_ms": round(targets_ms[0], 4),
        "random_targets_ms": round(targets_ms[1], 4),
        "targets_share": round((targets_ms[0] - targets_ms[1]) / step_ms[1], 5),
        "pairs": pairs,
        "photos": photos,
        "boxes": len(runs[0].ingredients.photos.index.box_images),
        "torch_threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2),
    }


if __name__ == "__main__":
    main()
