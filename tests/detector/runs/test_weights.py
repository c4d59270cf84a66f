"""Weights: shared memory, files that cannot be read, models of other sizes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cckt.cache_builder.base.errors import UserError
from cckt.detector.runs import weights as weight_files


def test_shared_and_strided_tensors_are_saved_completely(tmp_path):
    base = torch.arange(12.0).view(3, 4)
    weight_files.save_weights(tmp_path / "w.safetensors", {"a": base, "b": base.t(), "c": base[1:]})
    loaded = weight_files.load_weights(tmp_path / "w.safetensors")
    assert torch.equal(loaded["b"], base.t())
    assert torch.equal(loaded["c"], base[1:])


def test_missing_and_invalid_weights_are_reported(tmp_path):
    with pytest.raises(UserError, match=r"w\.safetensors: no such file"):
        weight_files.load_weights(tmp_path / "w.safetensors")
    (tmp_path / "w.safetensors").write_bytes(b"PK not safetensors")
    with pytest.raises(UserError, match="no readable safetensors"):
        weight_files.load_weights(tmp_path / "w.safetensors")


def test_weights_of_another_vocabulary_are_refused_with_both_sizes(tmp_path):
    model = nn.Linear(3, 5)
    with pytest.raises(
        UserError, match=r"tensor bias: found \(4,\), expected \(5,\); .*another vocabulary size"
    ):
        weight_files.load_into(model, nn.Linear(3, 4).state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"tensor bias: found nothing, expected \(5,\)"):
        weight_files.load_into(model, {"weight": torch.zeros(5, 3)}, tmp_path)
    with pytest.raises(UserError, match=r"tensor extra: found \(1,\), expected nothing"):
        weight_files.load_into(model, model.state_dict() | {"extra": torch.zeros(1)}, tmp_path)
    weights = nn.Linear(3, 5).state_dict()
    weight_files.load_into(model, weights, tmp_path)
    assert torch.equal(model.weight, weights["weight"])
