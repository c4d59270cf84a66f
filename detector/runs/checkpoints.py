"""Checkpoints of a run: written whole or not at all, found by their digests, and what a kill leaves.

files.json holds the digests of the files of a checkpoint: a damaged checkpoint is detected, and the one
before it is used. Nothing is unpickled: weights are safetensors, and state.pt is read by
torch.load(weights_only=True).
"""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cckt.cache_builder.base.atomic_files import write_bytes, write_json
from cckt.cache_builder.base.digests import file_digest
from cckt.cache_builder.base.errors import UserError, quoted
from cckt.cache_builder.base.untrusted.regular_files import read_regular_text, require_regular
from cckt.cache_builder.base.untrusted.text import parse_json
from cckt.detector.runs.weights import save_weights

CHECKPOINTS, PARTIAL = "checkpoints", ".partial"


def save_checkpoint(
    run: Path, step: int, weights: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any], keep: int
) -> Path:
    """Write checkpoints/step-XXXXXXXX and remove all but the newest `keep` checkpoints.

    weights: name ("model", "average") -> state dict. state: values that torch.load(weights_only=True) can
    read. Raises UserError if it cannot be written, for example because the disk is full; no partial
    checkpoint remains.
    """
    folder = run / CHECKPOINTS
    final, partial = folder / f"step-{step:08d}", folder / f".step-{step:08d}.{os.getpid()}{PARTIAL}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        for name, tensors in weights.items():
            save_weights(partial / f"{name}.safetensors", tensors)
        buffer = io.BytesIO()  # torch.save into a file raises RuntimeError, not OSError, on a full disk
        torch.save(dict(state), buffer)
        write_bytes(partial / "state.pt", buffer.getvalue())
        digests = {file.name: file_digest(file) for file in sorted(partial.iterdir())}
        write_json(partial / "files.json", {"step": step, "files": digests})
        shutil.rmtree(final, ignore_errors=True)
        os.replace(partial, final)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise UserError(
            f"{final}: the checkpoint could not be written ({error.strerror}); free disk space there and "
            f"continue from the previous checkpoint, if there is one, with cckt train --resume {quoted(run)}."
        ) from error
    _remove_old(run, keep)
    return final


def newest_checkpoint(run: Path) -> tuple[Path | None, list[str]]:
    """Return the newest intact checkpoint, or None, and a message about each newer one that is damaged."""
    damaged: list[str] = []
    for folder in _all_checkpoints(run):
        damage = _find_damage(folder)
        if damage is None:
            return folder, damaged
        damaged.append(f"{folder}: {damage}; using the checkpoint before it")
    return None, damaged


def remove_leftovers(run: Path, step: int, keep: int) -> None:
    """Remove the leftovers of a killed run: partial checkpoints, damaged ones after `step`, and all but the
    newest `keep`."""
    for folder in _all_checkpoints(run):
        if int(folder.name.removeprefix("step-")) > step:
            shutil.rmtree(folder)
    _remove_old(run, keep)
    for partial in (run / CHECKPOINTS).glob(f".step-*{PARTIAL}"):
        shutil.rmtree(partial, ignore_errors=True)


def load_state(checkpoint: Path) -> dict[str, Any]:
    """Read state.pt of an intact checkpoint on the CPU."""
    state: dict[str, Any] = torch.load(
        require_regular(checkpoint / "state.pt"), map_location="cpu", weights_only=True
    )
    return state


def evaluation_weights(run: Path) -> Path:
    """Return the weights file by which a run is evaluated.

    model.safetensors if the run has finished, else the file of its newest checkpoint (the moving average,
    with EMA). Raises UserError if there is neither, or if the newest checkpoint is damaged.
    """
    if (run / "model.safetensors").is_file():
        return run / "model.safetensors"
    newest, damaged = newest_checkpoint(run)
    if newest is not None and damaged:
        raise UserError(
            f"{damaged[0].partition(';')[0]}; continue with cckt train --resume {quoted(run)}, or delete "
            "this folder "
            "to use the checkpoint before it."
        )
    if newest is None:
        raise UserError(
            f"{run}: no model.safetensors and no intact checkpoint; train it first with cckt train."
        )
    average = newest / "average.safetensors"
    return average if average.is_file() else newest / "model.safetensors"


def _remove_old(run: Path, keep: int) -> None:
    for old in _all_checkpoints(run)[keep:]:
        shutil.rmtree(old, ignore_errors=True)


def _all_checkpoints(run: Path) -> list[Path]:
    """Return the checkpoint folders, newest first."""
    return sorted((run / CHECKPOINTS).glob(f"step-{'[0-9]' * 8}"), reverse=True)


def _find_damage(folder: Path) -> str | None:
    """Return a description of the first missing or damaged file of a checkpoint; None if it is intact."""
    try:
        listed = parse_json(read_regular_text(folder / "files.json"))
        digests = listed["files"]
        intact = listed.keys() == {"step", "files"} and listed["step"] == int(folder.name.rpartition("-")[2])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        intact = False
    if not intact or not isinstance(digests, dict) or "state.pt" not in digests:
        return "files.json is missing or damaged"
    for name, digest in digests.items():
        if not (folder / name).is_file() or file_digest(folder / name) != digest:
            return f"{name} is missing or damaged"
    return None
