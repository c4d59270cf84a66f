"""A folded tower is the same function; one that cannot be folded is unchanged; tiles keep order."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

from cckt.cache_builder.base.cpu.fold_norms import FusedConv, fold_batch_norms
from cckt.cache_builder.base.cpu.tiles import TILE, Tiles


def with_statistics(tower: nn.Module) -> nn.Module:
    """Frozen, with batch norms that do something."""
    torch.manual_seed(0)
    for module in tower.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.running_mean, module.bias):
                values.data.normal_()
            for values in (module.running_var, module.weight):
                values.data.uniform_(0.5, 2)
    return tower.eval().requires_grad_(False)


def folded_convolutions(tower: nn.Module) -> int:
    return sum(isinstance(module, FusedConv) for module in tower.modules())


def test_a_tower_without_batch_norms_is_not_touched() -> None:
    tower = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()
    before = list(tower.modules())
    assert not fold_batch_norms(tower, torch.float32)
    assert list(tower.modules()) == before


@pytest.mark.parametrize("name", ["resnet10t", "efficientnet_b0"])  # its norms carry their activations
def test_a_folded_tower_is_the_same_function(name: str) -> None:
    tower = with_statistics(timm.create_model(name, pretrained=False, num_classes=0)).double()
    pixels = torch.randn(2, 3, 64, 64).double()
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in tower.modules())
    with torch.inference_mode():
        expected = tower(pixels)
        assert fold_batch_norms(tower, torch.float64)
        found = tower(pixels)
    assert folded_convolutions(tower) == norms
    assert not any(isinstance(module, nn.BatchNorm2d) for module in tower.modules())
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("dtype", "least"), [(torch.float32, 0.999999), (torch.bfloat16, 0.995)])
def test_the_cpu_fuses_convolution_norm_and_relu(dtype: torch.dtype, least: float) -> None:
    tower = with_statistics(timm.create_model("resnet10t", pretrained=False, num_classes=0))
    pixels = torch.randn(3, 3, 64, 64).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        expected = tower(pixels)
        fold_batch_norms(tower, dtype)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            whole, part = tower(pixels).float(), tower(pixels[:1]).float()  # laid out for 3, given 1
    assert torch.cosine_similarity(whole, expected).min() > least
    assert torch.cosine_similarity(part, expected[:1]).min() > least


class Forked(nn.Module):
    """A convolution that someone else reads too, and one that is called twice: neither may change."""

    def __init__(self) -> None:
        super().__init__()
        self.read_twice, self.first = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.called_twice, self.second = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Any use of the same parts."""
        kept = self.read_twice(x)
        x = self.relu(self.first(kept)) + kept
        return self.relu(self.second(self.called_twice(self.called_twice(x))))


class Winding(nn.Module):
    """Control flow that depends on data cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        """The norm or not."""
        return self.norm(self.conv(x)) if x.sum() > 0 else x


@pytest.mark.parametrize("kind", [Forked, Winding])
def test_pairs_without_proof_by_a_trace_are_kept(kind: type[nn.Module]) -> None:
    tower = with_statistics(kind())
    pixels = torch.rand(2, 3, 5, 5)
    expected = tower(pixels)
    assert not fold_batch_norms(tower, torch.float32)
    assert torch.equal(tower(pixels), expected)


def test_a_relu_with_two_callers_is_kept_in_both() -> None:
    relu = nn.ReLU()
    parts = [nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3), relu, nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3), relu]
    tower = with_statistics(nn.Sequential(*parts))
    pixels = torch.randn(2, 3, 9, 9)
    expected = tower(pixels)
    assert fold_batch_norms(tower, torch.float32)
    assert folded_convolutions(tower) == 2
    assert tower[2] is relu
    torch.testing.assert_close(tower(pixels), expected)


def test_without_fused_operators_the_result_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cckt.cache_builder.base.cpu.fold_norms._has_fused", lambda weight: False)
    tower = with_statistics(nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU()))
    pixels = torch.randn(2, 3, 9, 9)
    expected = tower(pixels)
    assert fold_batch_norms(tower, torch.float32)
    torch.testing.assert_close(tower(pixels), expected)


@pytest.mark.parametrize("threads", [1, 3])
def test_tiles_are_computed_one_thread_each_and_come_in_order(threads: int) -> None:
    before = torch.get_num_threads()
    tiles = Tiles(threads)
    assert torch.get_num_threads() == before

    def work(tile: Tensor) -> Tensor:
        assert torch.get_num_threads() == 1
        assert len(tile) <= TILE
        return tile * 2

    rows = torch.arange(3 * TILE + 1)
    waiting = [tiles.launch(work, rows), tiles.launch(work, rows[:1])]
    assert torch.equal(torch.cat(waiting[0]()), rows * 2)
    assert torch.equal(torch.cat(waiting[1]()), rows[:1] * 2)


def test_an_exception_in_a_tile_is_raised() -> None:
    def work(tile: Tensor) -> Tensor:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        Tiles(2).launch(work, torch.zeros(40))()


def test_the_shapeworld_teacher_is_folded_and_equals_open_clip() -> None:
    import open_clip

    from cckt.cache_builder.teacher.clip import _shapeworld_folder, load_teacher

    teacher = load_teacher("shapeworld", device="cpu")
    plain = open_clip.create_model(f"local-dir:{_shapeworld_folder()}").eval()
    pixels = torch.randint(0, 256, (TILE + 3, *teacher.preprocess.shape), dtype=torch.uint8)
    with torch.inference_mode():
        expected = plain.encode_image(teacher.preprocess.finish(pixels)).numpy()
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert ((teacher.encode_images(pixels) * expected).sum(axis=1) >= 0.9999).all()
    lower = load_teacher("shapeworld", device="cpu", precision="bf16")
    assert lower.weight_digest == teacher.weight_digest
    assert ((lower.encode_images(pixels) * expected).sum(axis=1) >= 0.999).all()


def test_a_tower_that_has_run_can_be_copied() -> None:
    tower = with_statistics(timm.create_model("resnet10t", pretrained=False, num_classes=0))
    pixels = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        fold_batch_norms(tower, torch.float32)
        expected = tower(pixels)
        assert torch.equal(copy.deepcopy(tower)(pixels), expected)
