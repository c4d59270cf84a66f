"""The device of `--device`, and the digest of a model's weights."""

from __future__ import annotations

import hashlib
import os

import torch

from cckt.cache_builder.base.errors import UserError


def resolve_device(device: str) -> torch.device:
    """Return the torch device of `--device`; "auto" is the first available one of cuda, mps, cpu.

    With several GPUs "auto" takes the one of torchrun's LOCAL_RANK, so that ranks do not share a GPU.
    Raises UserError for a device that is unknown or missing.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        chosen = next(kind for kind, usable in available.items() if usable)
        rank = os.environ.get("LOCAL_RANK", "")
        if chosen == "cuda" and rank.isdigit():
            return torch.device("cuda", int(rank) % torch.cuda.device_count())
        return torch.device(chosen)
    kind, _, number = device.partition(":")
    usable = available.get(kind, False) and (not number or number.isdigit())
    if usable and kind == "cuda" and number:
        usable = int(number) < torch.cuda.device_count()
    if not usable:
        found = ", ".join(kind for kind, usable in available.items() if usable)
        raise UserError(
            f"--device {device} is not available; this machine has {found}: name one of them, or auto."
        )
    return torch.device(device)


def weight_digest(model: torch.nn.Module) -> str:
    """Return "sha256:..." of the state dict: names in order, dtypes, shapes, bytes."""
    digest = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        flat = value.detach().cpu().contiguous()
        digest.update(f"{key}|{flat.dtype}|{tuple(flat.shape)}|".encode())
        digest.update(flat.reshape(-1).view(torch.uint8).numpy().data)
    return f"sha256:{digest.hexdigest()}"
