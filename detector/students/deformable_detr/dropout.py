"""Dropout whose masks cost little on CPUs: whole random words instead of one draw per element.

On a CPU torch draws a mask element by element, and stores it as floats. Here every 64-bit word of a fast
generator decides four elements, 16 bits each, and the mask is stored as bytes. The seed of a mask is drawn
from torch's generator: equal seeds give equal masks, and a step that is recomputed repeats them. The rate is
rounded to a multiple of 2^-16, and kept elements are scaled by the rounded one. On other devices, and where
the model is compiled, torch's dropout is used.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

LEVELS = 1 << 16
"""Values of the 16 bits that decide an element."""


def dropout(x: Tensor, rate: float, training: bool) -> Tensor:
    """Return x with a share `rate` of its elements set to 0 and the others scaled, in training; else x."""
    if not training or rate == 0:
        return x
    if not _cheap(x):
        return F.dropout(x, rate, training)
    out: Tensor = _Dropout.apply(x, rate)
    return out


def relu_dropout(x: Tensor, rate: float, training: bool) -> Tensor:
    """Return the dropout of ReLU(x). Its gradient needs only the result, so no mask is kept."""
    if not training or rate == 0 or not _cheap(x):
        return F.dropout(F.relu(x), rate, training)
    out: Tensor = _ReluDropout.apply(x, rate)
    return out


def _cheap(x: Tensor) -> bool:
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


def kept(shape: torch.Size, rate: float) -> tuple[Tensor, float]:
    """Return a mask, True where an element is kept, and the factor that keeps the mean."""
    dropped = min(round(rate * LEVELS), LEVELS - 1)
    words = np.random.SFC64(int(torch.randint(2**62, ()))).random_raw((shape.numel() + 3) // 4)
    mask = words.view(np.int16)[: shape.numel()] >= dropped - LEVELS // 2
    return torch.from_numpy(mask).view(shape), LEVELS / (LEVELS - dropped)


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rate: float) -> Tensor:
        mask, ctx.scale = kept(x.shape, rate)
        ctx.save_for_backward(mask)
        return torch.where(mask, x, 0.0).mul_(ctx.scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (mask,) = ctx.saved_tensors
        return torch.where(mask, grad, 0.0).mul_(ctx.scale), None


class _ReluDropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rate: float) -> Tensor:
        mask, ctx.scale = kept(x.shape, rate)
        out = F.relu(x)
        torch.where(mask, out, out.new_zeros(()), out=out)
        out.mul_(ctx.scale)
        ctx.save_for_backward(out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (out,) = ctx.saved_tensors
        inner: Tensor = torch.ops.aten.threshold_backward(grad, out, 0)  # the gradient where out is above 0
        return inner.mul_(ctx.scale), None
