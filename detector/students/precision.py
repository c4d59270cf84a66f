"""Mixed precision: autocast, and float32 where half precision loses too much or is emulated."""

from __future__ import annotations

import platform
from functools import cache

import torch
from torch import Tensor

from cckt.detector.config.train import Precision

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


def computed_precision(precision: Precision, device: torch.device) -> Precision:
    """Return `precision`, or "fp32" where the device would emulate it.

    Half precision is a means to be fast. A CPU without instructions for it converts every number back and
    forth: on one with AVX2 alone, a training step of the quickstart took 6.9 s in bf16 and 0.77 s in fp32. A
    run that was trained on a GPU is computed in fp32 on such a CPU, too.
    """
    return precision if precision not in HALF or has_instructions(precision, device) else "fp32"


@cache
def has_instructions(precision: Precision, device: torch.device) -> bool:
    """Whether a device computes in "bf16" or "fp16" without emulation, as far as PyTorch can tell."""
    if device.type == "cuda" and precision == "bf16":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return True
    if precision == "fp16":  # PyTorch has no fast float16 on most CPUs, and does not say on which it has
        return False
    if platform.machine().lower() in ("x86_64", "amd64"):
        # Not the check of oneDNN, which accepts CPUs with AVX-512 alone, where it emulates bfloat16.
        return _cpu_has("avx512_bf16") or _cpu_has("amx_tile")
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _cpu_has(feature: str) -> bool:
    """Whether PyTorch finds a feature of the CPU; False for a PyTorch that cannot tell."""
    check = getattr(torch.cpu, f"_is_{feature}_supported", None)
    return check is not None and bool(check())


def emulation_note(precision: Precision, device: torch.device) -> list[str]:
    """Return a note if a run of `precision` is computed in fp32 on the device, else nothing."""
    if computed_precision(precision, device) == precision:
        return []
    kind = "CPU" if device.type == "cpu" else "GPU"
    return [
        f"this {kind} has no instructions for {precision}, so the run is computed in fp32, which is faster"
    ]


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """Return the autocast context of `precision` ("fp32", "bf16" or "fp16") on a device.

    "bf16" and "fp16" are "fp32" where the device would emulate them (`computed_precision`).
    """
    dtype = HALF.get(computed_precision(precision, device))
    return torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None)


def single(x: Tensor) -> Tensor:
    """Return half-precision tensors as float32, others unchanged."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
