"""Compare RoIAlign in training on a CPU with torchvision's, forward and backward.

Claim: at most half the time of torchvision's.
Peer: torchvision.ops.roi_align on the same map and boxes. Both alternate.

    python benchmarks/roi_align.py [--repeats 10] [--threads 2] [--channels 128] [--map 16 32 32] [--rois 900]
        [--cells 5]

The sizes are those of the finest level in a step of the quickstart: 16 photos, 900 boxes. Those of a
full-size recipe: --channels 256 --map 2 100 150 --rois 1024 --cells 7. Prints one JSON line:

    ratio, ratio_cpu_seconds    medians over the repeats of our time / torchvision's, forward and backward
    ours_ms, torchvision_ms     medians
    largest_difference          of the result and the gradient, relative to the largest value of each
    threads, load, map, channels, rois, cells, repeats, torch
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.ops import roi_align

from cckt.detector.students.faster_rcnn.roi_align_cpu import SAMPLES, align_rois

STRIDE = 4
"""Pixels per cell of the map."""


def main() -> None:
    """Measure and print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--channels", type=int, default=128)
    parser.add_argument("--map", type=int, nargs=3, default=[16, 32, 32], help="images, height, width")
    parser.add_argument("--rois", type=int, default=900)
    parser.add_argument("--cells", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    load = round(os.getloadavg()[0], 2)
    level, rois, grad = inputs(options)
    cells, scale = options.cells, 1 / STRIDE
    turns = []
    for turn in range(options.repeats + 2):  # the first two allocate memory
        ours, mine = timed(lambda one: align_rois(one, rois, cells, scale), level, grad)
        theirs, peer = timed(
            lambda one: roi_align(one, rois, (cells, cells), scale, SAMPLES, aligned=True), level, grad
        )
        if turn >= 2:
            turns.append((ours, theirs))
    worst = max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(mine, peer, strict=True))
    figures = {
        "ratio": round(statistics.median(a[0] / b[0] for a, b in turns), 3),
        "ratio_cpu_seconds": round(statistics.median(a[1] / b[1] for a, b in turns), 3),
        "ours_ms": round(1e3 * statistics.median(a[0] for a, _ in turns), 1),
        "torchvision_ms": round(1e3 * statistics.median(b[0] for _, b in turns), 1),
        "largest_difference": worst,
        "threads": options.threads,
        "load": load,
        "map": options.map,
        "channels": options.channels,
        "rois": options.rois,
        "cells": cells,
        "repeats": options.repeats,
        "torch": torch.__version__,
    }
    print(json.dumps(figures))


def inputs(options: argparse.Namespace) -> tuple[Tensor, Tensor, Tensor]:
    """Return a map (B, C, H, W), channels last as in training, RoIs (N, 5) and a gradient (N, C, K, K)."""
    generator = torch.Generator().manual_seed(0)
    batch, height, width = options.map
    level = torch.randn((batch, options.channels, height, width), generator=generator)
    first = torch.rand((options.rois, 2), generator=generator) * torch.tensor([width, height]) * STRIDE * 0.8
    sides = torch.rand((options.rois, 2), generator=generator) * STRIDE * 8 + STRIDE
    image = torch.randint(0, batch, (options.rois, 1), generator=generator).float()
    grad = torch.randn((options.rois, options.channels, options.cells, options.cells), generator=generator)
    return (
        level.contiguous(memory_format=torch.channels_last),
        torch.cat([image, first, first + sides], 1),
        grad,
    )


def timed(
    align: Callable[[Tensor], Tensor], level: Tensor, grad: Tensor
) -> tuple[tuple[float, float], tuple[Tensor, Tensor]]:
    """Return seconds and CPU seconds of forward and backward, and result and gradient of the map."""
    one = level.clone(memory_format=torch.preserve_format).requires_grad_()
    begin, busy = time.perf_counter(), time.process_time()
    out = align(one)
    out.backward(grad)
    seconds = (time.perf_counter() - begin, time.process_time() - busy)
    assert one.grad is not None, "the map has a gradient"
    return seconds, (out.detach(), one.grad)


if __name__ == "__main__":
    main()
