"""The sampling core of deformable attention against grid_sample, forward and backward.

    python benchmarks/deformable_attention.py [--repeats 10] [--threads 2] [--device cpu] [--precision fp32]

Sizes are those of an encoder layer over photos of 480 x 640: 4 levels of strides 8 to 64, 8 heads of width
32, 4 points, a query for each cell, batch 2. On CUDA our way is Triton's kernel (with bf16 it takes the
values as they are; grid_sample gets float32, as the model hands it); on a CPU, bags of embeddings. Both ways
take turns on the same numbers. Prints one JSON line:

    ratio, ratio_forward, ratio_backward    medians over the repeats of ours / grid_sample in the same turn;
                                            wanted: at most 0.5 on a GPU
    ratio_cpu_seconds       the first in seconds of this process on the CPU (with --threads 1 and
                            OMP_NUM_THREADS=1 it bears a busy machine); null on a GPU
    ours_ms, grid_ms        medians, forward and backward together
    largest_difference      of the result and the three gradients, relative to the largest number of each
    way, device, threads, precision, load
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
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=["fp32", "bf16", "fp16"], default="fp32")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument(
        "--size", type=int, nargs=2, default=[480, 640], help="height and width of the photos"
    )
    parser.add_argument("--queries", type=int, default=0, help="0: one a cell, as in the encoder")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    load = round(os.getloadavg()[0], 2)
    on_gpu = given.device.startswith("cuda")
    if on_gpu:
        from cckt.detector.students.deformable_detr.sampling_triton import sample_triton

    ours: Way = sample_triton if on_gpu else sample_bags
    shapes = [tuple(-(-side // stride) for side in given.size) for stride in (8, 16, 32, 64)]
    value, locations, weights = made_up(shapes, given)
    kind = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[given.precision]
    halved = value.to(kind)
    turns, answers = [], {}
    for turn in range(given.repeats + 2):  # the first two pay for compiling and memory
        mine, answers["ours"] = timed(ours, shapes, halved if on_gpu else halved.float(), locations, weights)
        grid, answers["grid"] = timed(sample_grid, shapes, halved.float(), locations, weights)
        if turn >= 2:
            turns.append((mine, grid))
    pairs = zip(answers["ours"], answers["grid"], strict=True)
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
    figures |= {"threads": given.threads, "precision": given.precision, "load": load, "batch": given.batch}
    print(json.dumps(figures | {"size": given.size, "repeats": given.repeats, "torch": torch.__version__}))


def made_up(shapes: list[Any], given: argparse.Namespace) -> tuple[Tensor, Tensor, Tensor]:
    """Values, places a few cells round each query's own, and weights that sum to one; float32."""
    generator = torch.Generator().manual_seed(0)
    cells = sum(h * w for h, w in shapes)
    queries = given.queries or cells
    value = torch.randn(given.batch, cells, 8, 32, generator=generator)
    centres = torch.rand(given.batch, queries, 1, 1, 1, 2, generator=generator)
    if not given.queries:  # in reading order, as an encoder's queries are
        rows = [torch.cartesian_prod(torch.arange(h) / h, torch.arange(w) / w).flip(-1) for h, w in shapes]
        centres = torch.cat(rows).view(1, cells, 1, 1, 1, 2).expand(given.batch, -1, -1, -1, -1, -1)
    spread = torch.randn(given.batch, queries, 8, 4, 4, 2, generator=generator) * 0.05
    weights = torch.randn(given.batch, queries, 8, 16, generator=generator).softmax(-1)
    made = value, centres + spread, weights.view(given.batch, queries, 8, 4, 4)
    return made[0].to(given.device), made[1].to(given.device), made[2].to(given.device)


def timed(
    way: Way, shapes: Any, value: Tensor, locations: Tensor, weights: Tensor
) -> tuple[dict[str, float], list[Tensor]]:
    """Seconds forward and backward, and on the CPU; the result and its gradients."""
    leaves = [one.detach().requires_grad_() for one in (value, locations, weights)]
    clock, busy = now(), time.process_time()
    out = way(leaves[0], shapes, leaves[1], leaves[2])
    middle = now()
    gradients = torch.autograd.grad(out, leaves, torch.ones_like(out))
    end = now()
    seconds = {"forward": middle - clock, "backward": end - middle, "busy": time.process_time() - busy}
    return seconds, [out.detach(), *gradients]


def now() -> float:
    """Seconds, when the device has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def median(turns: list[tuple[dict[str, float], dict[str, float]]], of: Callable[[Any], float]) -> float:
    """The median ratio."""
    return round(statistics.median(of(mine) / of(grid) for mine, grid in turns), 3)


if __name__ == "__main__":
    main()
