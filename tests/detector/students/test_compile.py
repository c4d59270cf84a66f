"""torch.compile gives one graph of the whole model; activation checkpointing keeps the gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cckt.detector.students.contract import PresentText
from cckt.detector.students.deformable_detr.model import DeformableDETR
from cckt.detector.training.train import train
from tests.detector.tiny import WIDTH, make_data, tiny_config

TEXT = nn.functional.normalize(torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(0)), dim=1)


def model(*assignments: str) -> DeformableDETR:
    torch.manual_seed(0)
    return DeformableDETR(tiny_config(*assignments), WIDTH).train()


def inputs(height: int = 64, width: int = 64) -> tuple[Tensor, Tensor | None, Tensor, PresentText]:
    images = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))
    return images, None, TEXT, PresentText.gather(TEXT, [torch.tensor([2]), torch.tensor([0, 3])])


def gradients(run: Any, bare: nn.Module, given: tuple[Any, ...]) -> tuple[Any, dict[str, Tensor]]:
    """Return outputs and the gradients of a weighted sum of them, with the same dropout in each call."""
    bare.zero_grad()
    torch.manual_seed(3)
    out = run(*given)
    sum((one * torch.linspace(0, 1, one.shape[-1])).square().sum() for one in parts(out)).backward()
    return out, {name: p.grad.clone() for name, p in bare.named_parameters() if p.grad is not None}


def parts(out: Any) -> tuple[Tensor, Tensor, Tensor]:
    return out.boxes, out.logits, out.region


@pytest.mark.slow
def test_the_model_compiles_to_one_graph_for_any_image_size() -> None:
    plain = model("model.dropout=0")
    with (
        torch.no_grad()
    ):  # initial samples are at cell centres, where the two implementations differ in gradient
        for name, parameter in plain.named_parameters():
            if "sampling_offsets" in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    run = torch.compile(plain, fullgraph=True, backend="aot_eager", dynamic=True)
    for height, width in ((64, 64), (96, 64)):
        given = inputs(height, width)
        found, slopes = gradients(run, plain, given)
        expected, plain_slopes = gradients(plain, plain, given)
        for one, other in zip(parts(found), parts(expected), strict=True):
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
        assert slopes.keys() == plain_slopes.keys()
        for name, slope in slopes.items():
            torch.testing.assert_close(slope, plain_slopes[name], atol=1e-2, rtol=1e-3, msg=name)


def test_activation_checkpointing_gives_the_same_gradients() -> None:
    plain = model("model.dropout=0.3", "model.encoder_layers=2")
    expected, slopes = gradients(plain, plain, inputs())
    plain.transformer.recompute = True
    found, again = gradients(plain, plain, inputs())
    for one, other in zip(parts(found), parts(expected), strict=True):
        assert torch.equal(one, other)
    assert slopes.keys() == again.keys()
    assert all(torch.equal(slope, again[name]) for name, slope in slopes.items())


def test_activation_checkpointing_keeps_less_memory() -> None:
    def kept(recompute: bool) -> int:
        """Bytes that autograd keeps for the backward pass."""
        one = model("model.encoder_layers=3")
        one.transformer.recompute = recompute
        seen: dict[int, int] = {}

        def note(tensor: Tensor) -> Tensor:
            seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            one(*inputs())
        return sum(seen.values())

    assert kept(True) < 0.8 * kept(False)


def test_training_with_activation_checkpointing_is_the_same_run(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data")
    losses = []
    for name in ("false", "true"):
        config = tiny_config(f"train.checkpoint_activations={name}", "train.epochs=1", "model.dropout=0.2")
        train(config, data, None, tmp_path / name)
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        losses.append([line.split('"loss_total": ')[1].split(",")[0] for line in lines])
    assert losses[0] == losses[1]


def test_training_compiles_only_if_configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[nn.Module] = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, **_: compiled.append(self))
    data = make_data(tmp_path / "data")
    for name in ("false", "true"):
        train(
            tiny_config(f"train.compile={name}", "train.epochs=1"), data, None, tmp_path / name, max_steps=1
        )
    assert [type(one) for one in compiled] == [DeformableDETR]
