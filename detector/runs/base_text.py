"""Text embeddings of the base concepts of a run, as its teacher computed them (base_text.safetensors)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cckt.cache_builder.base.errors import UserError
from cckt.detector.runs.run_folder import Facts
from cckt.detector.runs.weights import load_weights, save_weights

BASE_TEXT_FILE = "base_text.safetensors"


def save_base_text(run: Path, text: npt.NDArray[np.floating] | Tensor) -> Path:
    """Write base_text.safetensors and return its path.

    text: (C, D) embeddings of the base concepts in the order of `Facts.names`. Without a teacher, prediction
    reads them to let the base concepts compete with the words of a user.
    """
    table = torch.as_tensor(text).detach().float()
    assert table.ndim == 2, f"expected (C, D), found {tuple(table.shape)}"
    save_weights(run / BASE_TEXT_FILE, {"text": table})
    return run / BASE_TEXT_FILE


def load_base_text(run: Path, facts: Facts) -> npt.NDArray[np.float32] | None:
    """Return (C, D) float32 unit text embeddings of `facts.names`; None if the run has no such file.

    Raises UserError if the file is damaged or belongs to another run.
    """
    path = run / BASE_TEXT_FILE
    if not path.is_file():
        return None
    table = load_weights(path).get("text")
    expected = (len(facts.names), facts.embedding_dim)
    found = None if table is None else tuple(table.shape)
    if table is None or found != expected:
        raise UserError(
            f"{path}: found text embeddings of shape {found}, expected {expected}, one row per base concept; "
            "delete the file, or copy that of the run."
        )
    rows = table.float().numpy()
    if not np.isfinite(rows).all() or not rows.any(axis=1).all():
        raise UserError(
            f"{path}: a text embedding is all zeros or not finite, expected one with a direction for each "
            "base concept; delete the file, or copy that of the run."
        )
    unit: npt.NDArray[np.float32] = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return unit
