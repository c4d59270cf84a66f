"""Where a model computes, and which model it is: its device and the digest of its weights."""

from __future__ import annotations

import hashlib
import os

import torch

from cckt.cache_builder.base.errors import UserError


def resolve_device(device: str) -> torch.device:
    """The torch device meant by `--device`; "auto" takes the first of cuda, mps, cpu that is there.

    Of several GPUs "auto" takes the one of torchrun's LOCAL_RANK: ranks of a machine do not share one.
    Raises UserError for a device that is unknown or absent.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        chosen = next(kind for kind, usable in there.items() if usable)
        rank = os.environ.get("LOCAL_RANK", "")
        if chosen == "cuda" and rank.isdigit():
            return torch.device("cuda", int(rank) % torch.cuda.device_count())
        return torch.device(chosen)
    kind, _, number = device.partition(":")
    usable = there.get(kind, False) and (not number or number.isdigit())
    if usable and kind == "cuda" and number:
        usable = int(number) < torch.cuda.device_count()
    if not usable:
        found = ", ".join(kind for kind, usable in there.items() if usable)
        raise UserError(
            f"--device {device} is not to be had here; this machine has {found}, and auto picks among them."
        )
    return torch.device(device)


def weight_digest(model: torch.nn.Module) -> str:
    """ "sha256:..." over the state dict: names in order, dtypes, shapes, bytes."""
    digest = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        flat = value.detach().cpu().contiguous()
        digest.update(f"{key}|{flat.dtype}|{tuple(flat.shape)}|".encode())
        digest.update(flat.reshape(-1).view(torch.uint8).numpy().data)
    return f"sha256:{digest.hexdigest()}"
