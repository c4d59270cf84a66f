"""Weights as safetensors: written, read and loaded into a model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor, nn

from cckt.cache_builder.base.atomic_files import write_bytes
from cckt.cache_builder.base.disk_faults import raise_unless_missing
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.untrusted.regular_files import require_regular
from cckt.detector.runs.file_digests import check_recorded


def save_weights(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Write a state dict as safetensors; tensors that share memory are stored separately."""
    copies = {name: value.detach().cpu().contiguous().clone() for name, value in weights.items()}
    write_bytes(path, safetensors.torch.save(copies))


def load_weights(path: Path) -> dict[str, Tensor]:
    """Read safetensors on the CPU. Raises UserError if the file is missing or damaged."""
    check_recorded(path)
    try:
        return dict(safetensors.torch.load_file(require_regular(path)))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file, expected weights written by cckt train.") from None
    except (safetensors.SafetensorError, OSError) as error:
        raise_unless_missing(error, path)
        raise UserError(
            f"{path}: found no readable safetensors ({error}), expected weights written by cckt train; "
            "use another checkpoint of the run."
        ) from None


def load_into(model: nn.Module, weights: Mapping[str, Tensor], source: Path) -> None:
    """Load a state dict strictly. Raises UserError naming `source` and the first tensor that does not fit."""
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in weights.items()}
    advice = (
        "the run was made with another vocabulary size, teacher or model; use its own config and columns."
    )
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            shapes = f"found {found.get(name, 'nothing')}, expected {expected.get(name, 'nothing')}"
            raise UserError(f"{source}: tensor {name}: {shapes}; {advice}")
    model.load_state_dict(dict(weights))
