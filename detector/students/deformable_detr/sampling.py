"""The core of deformable attention: bilinear samples of a pyramid, weighted and summed.

`sample` picks the way by itself; all ways compute the same. `sample_grid` is the reference and runs anywhere;
`sampling_cpu.py` is the way of CPUs, two to three times as fast there; `sampling_triton.py` that
of GPUs.

Shape legend: B photos, Q queries, H heads, E width of a head, L levels, P points, S = sum of h*w over levels,
R = B*Q*H rows of the result, K = L*P samples of a row.
"""

from __future__ import annotations

import importlib.util
from functools import cache, lru_cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from cckt.cache_builder.base.errors import UserError
from cckt.detector.students.deformable_detr.shapes import Shapes

Kernel = Literal["auto", "torch", "triton"]
"""Who samples: "auto" takes Triton's kernel for CUDA tensors where it can be had, "torch" never does,
"triton" refuses to do without."""


def sample(
    value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor, kernel: Kernel = "auto"
) -> Tensor:
    """Sample, weigh and sum.

    value: (B, S, H, E), levels one after another, cells of a level in reading order; a level may have none.
    locations: (B, Q, H, L, P, 2) as x, y; 0..1 spans a level's outer edges; outside reads zeros.
    weights: (B, Q, H, L, P). Locations and weights are float32, or float64 with such a value; the value may
    be half precision, which the kernel sums in float32 and the other ways make float32 of first.
    Returns (B, Q, H * E). Raises UserError for kernel="triton" where it cannot run.
    """
    if kernel != "torch" and _fused(value, shapes, locations, demanded=kernel == "triton"):
        from cckt.detector.students.deformable_detr.sampling_triton import sample_triton

        return sample_triton(value, shapes, locations, weights)
    value = value.to(locations.dtype)
    if value.device.type == "cpu" and not torch.compiler.is_compiling():
        from cckt.detector.students.deformable_detr.sampling_cpu import sample_bags

        return sample_bags(value, shapes, locations, weights)
    return sample_grid(value, shapes, locations, weights)


def _fused(value: Tensor, shapes: Shapes, locations: Tensor, demanded: bool) -> bool:
    """Whether Triton's kernel takes these; if it is demanded, it must."""
    if value.device.type != "cuda" or not has_triton():
        fault = _lacks(value.device)
    elif torch.float64 in (value.dtype, locations.dtype):
        fault = "the tensors are float64, expected float32, bfloat16 or float16"
    elif len(shapes) > 8:
        fault = f"the pyramid has {len(shapes)} levels, expected at most 8"
    else:
        return demanded or not kernel_fault(value.device)
    if demanded:
        raise _refusal(fault)
    return False


def demand_triton(device: torch.device) -> None:
    """Raises UserError where Triton's kernel cannot run on the device."""
    if device.type != "cuda" or not has_triton():
        raise _refusal(_lacks(device))


def _lacks(device: torch.device) -> str:
    if device.type != "cuda":
        return f"the tensors are on {device.type}, expected cuda"
    return "triton is not installed; it comes with CUDA builds of torch"


def _refusal(fault: str) -> UserError:
    return UserError(
        f"option model.attention_kernel: found 'triton', but {fault}; use --set model.attention_kernel=auto."
    )


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def has_triton() -> bool:
    """Whether Triton can be imported."""
    return importlib.util.find_spec("triton") is not None


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
@cache
def kernel_fault(device: torch.device) -> str:
    """Why Triton's kernel does not run on a GPU, "" where it does; found out by a launch.

    For its first one Triton needs a C compiler and Python's headers, and it must know the GPU.
    """
    from cckt.detector.students.deformable_detr.sampling_triton import sample_triton

    with torch.inference_mode(False), torch.no_grad():
        value = torch.zeros((1, 1, 1, 1), device=device)
        weights = torch.zeros((1, 1, 1, 1, 1), device=device)
        try:
            sample_triton(value, [(1, 1)], torch.zeros((*weights.shape, 2), device=device), weights)
        except Exception as fault:  # Triton and the compiler that it calls have kinds of their own
            return (str(fault).strip() or type(fault).__name__).splitlines()[0]
    return ""


def sides_of(shapes: Shapes, like: Tensor) -> Tensor:
    """(L, 2) width and height of each level, of the dtype and on the device of `like`."""
    if not torch.compiler.is_compiling():
        return _sides(tuple(shapes), like.dtype, like.device)
    # In a graph for photos of any size they are symbols, which no constant tensor can hold.
    return torch.stack(
        [like.new_full((), side) for height, width in shapes for side in (width, height)]
    ).view(-1, 2)


@lru_cache(maxsize=64)
def _sides(shapes: tuple[tuple[int, int], ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Kept, because a copy to a GPU waits for all that was asked of it before: once a layer, it was."""
    with torch.inference_mode(False):
        return torch.tensor([[width, height] for height, width in shapes], dtype=dtype, device=device)


def sample_grid(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    """`sample` by grid_sample, level by level."""
    batch, _, heads, width = value.shape
    queries, points = locations.shape[1], locations.shape[4]
    grids = (2 * locations - 1).permute(3, 0, 2, 1, 4, 5)
    grids = grids.reshape(len(shapes), batch * heads, queries, points, 2)
    maps = value.permute(0, 2, 3, 1).flatten(0, 1)  # (B H, E, S)
    samples = []
    planes = torch.split(maps, [height * breadth for height, breadth in shapes], -1)
    for level, (plane, (height, breadth)) in enumerate(zip(planes, shapes, strict=True)):
        # grid_sample refuses what the others take: nothing there, zeros. (In a graph sizes may be symbols.)
        if not torch.compiler.is_compiling() and not height * breadth:
            samples.append(maps.new_zeros((batch * heads, width, queries, points)))
            continue
        plane = plane.reshape(batch * heads, width, height, breadth)
        samples.append(F.grid_sample(plane, grids[level], padding_mode="zeros", align_corners=False))
    spread = weights.permute(0, 2, 1, 3, 4).reshape(batch * heads, 1, queries, len(shapes) * points)
    summed = (torch.stack(samples, dim=-2).flatten(-2) * spread).sum(-1)  # (B H, E, Q)
    return summed.view(batch, heads * width, queries).transpose(1, 2)
