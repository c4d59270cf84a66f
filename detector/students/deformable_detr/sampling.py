"""The core of deformable attention: bilinear samples of a pyramid, weighted and summed.

`sample` selects one of four implementations with equal results: `sample_grid` is the reference and runs on
every device; `sampling_cpu.py` is two to three times as fast on CPUs; `sampling_triton.py` is for GPUs;
`sampling_gather.py` is for exported graphs without GridSample.

Shape legend: B images, Q queries, H heads, E width of a head, L levels, P points, S = sum of h*w over levels,
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
from cckt.detector.students.deformable_detr.sampling_gather import sample_gather
from cckt.detector.students.deformable_detr.shapes import Shapes

Kernel = Literal["auto", "torch", "triton", "gather"]
"""Implementation: "auto" uses the Triton kernel for CUDA tensors if it runs there; "torch" never uses it;
"triton" raises UserError if it does not run; "gather" is for graphs without GridSample."""


def sample(
    value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor, kernel: Kernel = "auto"
) -> Tensor:
    """Return (B, Q, H * E): for each query and head the weighted sum of bilinear samples.

    value: (B, S, H, E), the levels concatenated, the cells of a level in row-major order; a level may be
    empty. locations: (B, Q, H, L, P, 2) as x, y; 0 and 1 are the outer edges of a level; samples outside are
    zero. weights: (B, Q, H, L, P). Locations and weights are float32, or float64 if the value is. The value
    may have half precision: the Triton kernel sums in float32, the others convert to float32 first.
    Raises UserError if kernel="triton" cannot run.
    """
    if kernel == "gather":
        return sample_gather(value.to(locations.dtype), sides_of(shapes, locations), locations, weights)
    if kernel != "torch" and _use_triton(value, shapes, locations, required=kernel == "triton"):
        from cckt.detector.students.deformable_detr.sampling_triton import sample_triton

        return sample_triton(value, shapes, locations, weights)
    value = value.to(locations.dtype)
    if value.device.type == "cpu" and not torch.compiler.is_compiling():
        from cckt.detector.students.deformable_detr.sampling_cpu import sample_bags

        return sample_bags(value, shapes, locations, weights)
    return sample_grid(value, shapes, locations, weights)


def _use_triton(value: Tensor, shapes: Shapes, locations: Tensor, required: bool) -> bool:
    """Whether the Triton kernel runs on these tensors. Raises UserError if it is required and does not."""
    if value.device.type != "cuda" or not has_triton():
        fault = _missing(value.device)
    elif torch.float64 in (value.dtype, locations.dtype):
        fault = "the tensors are float64, expected float32, bfloat16 or float16"
    elif len(shapes) > 8:
        fault = f"the pyramid has {len(shapes)} levels, expected at most 8"
    else:
        return required or not kernel_fault(value.device)
    if required:
        raise _refusal(fault)
    return False


def require_triton(device: torch.device) -> None:
    """Raise UserError unless the device is a GPU and Triton is installed."""
    if device.type != "cuda" or not has_triton():
        raise _refusal(_missing(device))


def _missing(device: torch.device) -> str:
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
    """Return why the Triton kernel does not run on a GPU, "" if it does; determined by one launch.

    The first launch needs a C compiler, Python's headers, and a GPU that Triton supports.
    """
    from cckt.detector.students.deformable_detr.sampling_triton import sample_triton

    with torch.inference_mode(False), torch.no_grad():
        value = torch.zeros((1, 1, 1, 1), device=device)
        weights = torch.zeros((1, 1, 1, 1, 1), device=device)
        try:
            sample_triton(value, [(1, 1)], torch.zeros((*weights.shape, 2), device=device), weights)
        except Exception as fault:  # Triton and its compiler raise many classes
            return (str(fault).strip() or type(fault).__name__).splitlines()[0]
    return ""


def sides_of(shapes: Shapes, like: Tensor) -> Tensor:
    """Return (L, 2), width and height of each level, with the dtype and device of `like`."""
    if not torch.compiler.is_compiling():
        return _sides(tuple(shapes), like.dtype, like.device)
    # In a graph for images of any size, sides are symbols; torch.tensor takes only numbers.
    return torch.stack(
        [like.new_full((), side) for height, width in shapes for side in (width, height)]
    ).view(-1, 2)


@lru_cache(maxsize=64)
def _sides(shapes: tuple[tuple[int, int], ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Cached: a copy to a GPU waits for all its pending work, and every layer needs this tensor."""
    with torch.inference_mode(False):
        return torch.tensor([[width, height] for height, width in shapes], dtype=dtype, device=device)


def sample_grid(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    """Compute `sample` with torch's grid_sample, level by level."""
    batch, _, heads, width = value.shape
    queries, points = locations.shape[1], locations.shape[4]
    grids = (2 * locations - 1).permute(3, 0, 2, 1, 4, 5)
    grids = grids.reshape(len(shapes), batch * heads, queries, points, 2)
    maps = value.permute(0, 2, 3, 1).flatten(0, 1)  # (B H, E, S)
    samples = []
    planes = torch.split(maps, [height * breadth for height, breadth in shapes], -1)
    for level, (plane, (height, breadth)) in enumerate(zip(planes, shapes, strict=True)):
        # grid_sample does not support empty levels; their samples are zero. (In a graph, sizes are symbols.)
        if not torch.compiler.is_compiling() and not height * breadth:
            samples.append(maps.new_zeros((batch * heads, width, queries, points)))
            continue
        plane = plane.reshape(batch * heads, width, height, breadth)
        samples.append(F.grid_sample(plane, grids[level], padding_mode="zeros", align_corners=False))
    spread = weights.permute(0, 2, 1, 3, 4).reshape(batch * heads, 1, queries, len(shapes) * points)
    summed = (torch.stack(samples, dim=-2).flatten(-2) * spread).sum(-1)  # (B H, E, Q)
    return summed.view(batch, heads * width, queries).transpose(1, 2)
