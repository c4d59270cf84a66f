"""Mixed precision: autocast, and float32 where half precision loses too much."""

from __future__ import annotations

import torch
from torch import Tensor

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Return the autocast context of `precision` ("fp32", "bf16" or "fp16") on a device."""
    dtype = HALF.get(precision)
    return torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None)


def single(x: Tensor) -> Tensor:
    """Return half-precision tensors as float32, others unchanged."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
