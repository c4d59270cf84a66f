"""Compare the sampling core of deformable attention with grid_sample, forward and backward.

Claim: at most half the time of grid_sample on a GPU.
Peer: the same computation by torch's grid_sample, on the same values.

    python benchmarks/deformable_attention.py [--repeats 10] [--threads 2] [--device cpu] [--precision fp32]
        [--batch 2] [--size 480 640] [--queries 0]

Sizes are those of an encoder layer for images of 480 x 640: 4 levels of strides 8 to 64, 8 heads of width 32,
4 points, one query per cell, batch 2. On CUDA, ours is the Triton kernel, which takes bf16 values directly;
grid_sample gets float32, as in the model. On a CPU, ours uses embedding bags. Both alternate. Prints one JSON
line:

    ratio, ratio_forward, ratio_backward    medians over the repeats of our time / grid_sample's
    ratio_cpu_seconds       `ratio` in CPU seconds of this process; other load on the machine affects it
                            little with --threads 1 and OMP_NUM_THREADS=1; null on a GPU
    ours_ms, grid_ms        medians, forward and backward together
    largest_difference      of the result and the three gradients, relative to the largest value of each
    way, device, threads, precision, load, batch, size, repeats, torch
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cckt.detector.students.deformable_detr.sampling import Shapes, sample_grid
from cckt.detector.students.deformable_detr.sampling_cpu import sample_bags

Way = Callable[[Tensor, Shapes, Tensor, Tensor], Tensor]


def main() -> None:
    """Measure and print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=["fp32", "bf16", "fp16"], default="fp32")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument(
        "--size", type=int, nargs=2, default=[480, 640], help="height and width of the images"
    )
    parser.add_argument("--queries", type=int, default=0, help="0: one per cell, as in the encoder")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    load = round(os.getloadavg()[0], 2)
    on_gpu = options.device.startswith("cuda")
    if on_gpu:
        from cckt.detector.students.deformable_detr.sampling_triton import sample_triton

    ours: Way = sample_triton if on_gpu else sample_bags
    shapes = [tuple(-(-side // stride) for side in options.size) for stride in (8, 16, 32, 64)]
    value, locations, weights = random_inputs(shapes, options)
    kind = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[options.precision]
    halved = value.to(kind)
    turns, results = [], {}
    for turn in range(options.repeats + 2):  # the first two compile and allocate memory
        own, results["ours"] = timed(ours, shapes, halved if on_gpu else halved.float(), locations, weights)
        grid, results["grid"] = timed(sample_grid, shapes, halved.float(), locations, weights)
        if turn >= 2:
            turns.append((own, grid))
    pairs = zip(results["ours"], results["grid"], strict=True)
    worst = max(float((a.float() - b.float()).abs().max() / b.abs().max()) for a, b in pairs)
    figures: dict[str, Any] = {
        "ratio": median(turns, lambda one: one["forward"] + one["backward"]),
        "ratio_forward": median(turns, lambda one: one["forward"]),
        "ratio_backward": median(turns, lambda one: one["backward"]),
        "ratio_cpu_seconds": None if on_gpu else median(turns, lambda one: one["busy"]),
        "ours_ms": round(1e3 * statistics.median(a["forward"] + a["backward"] for a, _ in turns), 3),
        "grid_ms": round(1e3 * statistics.median(b["forward"] + b["backward"] for _, b in turns), 3),
        "largest_difference": worst,
        "way": ours.__name__,
        "device": torch.cuda.get_device_name() if on_gpu else f"cpu x {os.cpu_count()}",
    }
    figures |= {
        "threads": options.threads,
        "precision": options.precision,
        "load": load,
        "batch": options.batch,
    }
    print(
        json.dumps(figures | {"size": options.size, "repeats": options.repeats, "torch": torch.__version__})
    )


def random_inputs(shapes: list[Any], options: argparse.Namespace) -> tuple[Tensor, Tensor, Tensor]:
    """Return values, locations a few cells around each query, and weights that sum to one; float32."""
    generator = torch.Generator().manual_seed(0)
    cells = sum(h * w for h, w in shapes)
    queries = options.queries or cells
    value = torch.randn(options.batch, cells, 8, 32, generator=generator)
    centres = torch.rand(options.batch, queries, 1, 1, 1, 2, generator=generator)
    if not options.queries:  # in row order, like the queries of an encoder
        rows = [torch.cartesian_prod(torch.arange(h) / h, torch.arange(w) / w).flip(-1) for h, w in shapes]
        centres = torch.cat(rows).view(1, cells, 1, 1, 1, 2).expand(options.batch, -1, -1, -1, -1, -1)
    spread = torch.randn(options.batch, queries, 8, 4, 4, 2, generator=generator) * 0.05
    weights = torch.randn(options.batch, queries, 8, 16, generator=generator).softmax(-1)
    inputs = value, centres + spread, weights.view(options.batch, queries, 8, 4, 4)
    return inputs[0].to(options.device), inputs[1].to(options.device), inputs[2].to(options.device)


def timed(
    way: Way, shapes: Any, value: Tensor, locations: Tensor, weights: Tensor
) -> tuple[dict[str, float], list[Tensor]]:
    """Return wall seconds of forward and backward and CPU seconds; and the result with its gradients."""
    leaves = [one.detach().requires_grad_() for one in (value, locations, weights)]
    clock, busy = now(), time.process_time()
    out = way(leaves[0], shapes, leaves[1], leaves[2])
    middle = now()
    gradients = torch.autograd.grad(out, leaves, torch.ones_like(out))
    end = now()
    seconds = {"forward": middle - clock, "backward": end - middle, "busy": time.process_time() - busy}
    return seconds, [out.detach(), *gradients]


def now() -> float:
    """Return the time in seconds after the device has finished."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def median(turns: list[tuple[dict[str, float], dict[str, float]]], of: Callable[[Any], float]) -> float:
    """Return the median over the turns of our time / that of grid_sample."""
    return round(statistics.median(of(own) / of(grid) for own, grid in turns), 3)


if __name__ == "__main__":
    main()
