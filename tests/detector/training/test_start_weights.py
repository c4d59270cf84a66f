"""Weights that fit are taken from a run or a file; what was taken is said."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from cckt.cache_builder.base.errors import UserError
from cckt.detector.runs.weights import save_weights
from cckt.detector.training.start_weights import start_from


def test_tensors_that_fit_by_name_and_shape_are_taken(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4))
    before = model.state_dict()["1.weight"].clone()
    stored = {"0.weight": torch.ones(3, 2), "0.bias": torch.ones(9), "other": torch.ones(1)}
    save_weights(tmp_path / "a.safetensors", stored)
    found = start_from(model, tmp_path / "a.safetensors")
    assert (model.state_dict()["0.weight"] == 1).all()
    assert torch.equal(model.state_dict()["1.weight"], before)
    assert (found.taken, found.other_shape, found.unused) == (1, ["0.bias"], ["other"])
    assert found.missing == ["1.weight", "1.bias"]
    line = found.line()
    assert "1 of 4 tensors of the model were taken" in line
    assert "1 have another shape there (first: 0.bias)" in line
    assert "2 are not in the file (first: 1.weight)" in line
    assert "1 of the file are not used (first: other)" in line


def test_a_file_without_a_fitting_tensor_is_refused(tmp_path: Path) -> None:
    save_weights(tmp_path / "a.safetensors", {"x": torch.ones(1)})
    with pytest.raises(UserError, match=r"none of its 1 tensor \(first: x\) has a name and shape"):
        start_from(nn.Linear(2, 3), tmp_path / "a.safetensors")
    (tmp_path / "b.pt").touch()
    with pytest.raises(UserError, match=r"b\.pt: expected a run folder or a \.safetensors file"):
        start_from(nn.Linear(2, 3), tmp_path / "b.pt")


def test_a_tensor_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    save_weights(tmp_path / "a.safetensors", {"weight": torch.full((3, 2), torch.nan)})
    with pytest.raises(UserError, match="its tensor weight holds non-finite numbers"):
        start_from(nn.Linear(2, 3), tmp_path / "a.safetensors")
