"""The device of `--device`, and the digest of a model's weights."""

from __future__ import annotations

import hashlib
import os

import torch

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.untrusted.text import natural


def pick_device(name: str, local_rank: int | None = None, option: str = "--device") -> torch.device:
    """Return the device of a name; "auto" takes CUDA, else MPS, else the CPU.

    local_rank: number of this rank on its machine, so that ranks do not share a GPU; None is torchrun's
    LOCAL_RANK, 0 without it. Raises UserError naming `option` for an unknown name or a device that does not
    exist.
    """
    if local_rank is None:
        text = os.environ.get("LOCAL_RANK", "")
        local_rank = natural(text) or 0
    if name == "auto":
        if torch.cuda.is_available():
            name = f"cuda:{local_rank % torch.cuda.device_count()}"
        else:
            name = "mps" if torch.backends.mps.is_available() else "cpu"
    unknown = UserError(f"{option}: found {name!r}, expected auto, cpu, cuda or mps.")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise unknown from None
    if device.type == "cuda":
        count = torch.cuda.device_count()
        # A scheduler may make only one GPU visible to each rank; then it is number 0 for all of them.
        index = local_rank % max(count, 1) if device.index is None else device.index
        if index >= count:
            raise UserError(
                f"{option}: found {name!r}, but torch sees {count} CUDA devices here; use auto or cpu, or "
                "install a CUDA build of torch."
            )
        return torch.device("cuda", index)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError(f"{option}: found 'mps', which torch cannot use here; use auto or cpu.")
    if device.type not in ("cpu", "mps"):
        raise unknown
    return device


def weight_digest(model: torch.nn.Module) -> str:
    """Return "sha256:..." of the state dict: names in order, dtypes, shapes, bytes."""
    digest = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        flat = value.detach().cpu().contiguous()
        digest.update(f"{key}|{flat.dtype}|{tuple(flat.shape)}|".encode())
        digest.update(flat.reshape(-1).view(torch.uint8).numpy().data)
    return f"sha256:{digest.hexdigest()}"
