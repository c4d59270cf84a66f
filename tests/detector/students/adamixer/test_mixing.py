"""Box codes, level weights, sampling, mixing against plain loops (docs/method/hd_ovd.md, eqs. 43 to 46)."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cckt.detector.config.config import Config, ModelConfig
from cckt.detector.config.students import AdaMixerConfig
from cckt.detector.students.adamixer.coding import (
    code,
    corners_of,
    overlap_of_first,
    refined,
    sides,
    sine_codes,
)
from cckt.detector.students.adamixer.mixing import AdaptiveMixing, LevelMaps, level_shares
from cckt.detector.students.adamixer.stage import BoxAwareAttention, Stage

SIDE = st.floats(0.5, 2000, allow_nan=False)


@given(st.floats(-50, 2000), st.floats(-50, 2000), SIDE, SIDE)
@settings(deadline=None, max_examples=50)
def test_a_code_and_its_box_agree(x: float, y: float, width: float, height: float) -> None:
    box = torch.tensor([x, y, x + width, y + height], dtype=torch.float64)
    found = code(box)
    wide, high = float(box[2] - box[0]), float(box[3] - box[1])
    assert float(found[2]) == pytest.approx(math.log2(math.sqrt(wide * high)), abs=1e-6)
    assert float(found[3]) == pytest.approx(math.log2(high / wide), abs=1e-6)
    assert sides(found).tolist() == pytest.approx(
        [2 ** float(found[2] - found[3] / 2), 2 ** float(found[2] + found[3] / 2)]
    )
    torch.testing.assert_close(corners_of(found), box, atol=1e-6, rtol=1e-6)


def test_a_change_moves_in_units_of_the_scale_and_stays_finite() -> None:
    start, change = [30.0, 40.0, 5.0, -0.5], [0.25, -0.5, 1.0, 0.25]
    found = refined(torch.tensor(start), torch.tensor(change)).tolist()
    assert found == pytest.approx([30 + 32 * 0.25, 40 - 32 * 0.5, 6.0, -0.25])
    wild = refined(torch.tensor(start), torch.tensor([0.0, 0.0, 1e9, -1e9]))
    assert bool(corners_of(wild).isfinite().all())


def test_level_weights_equal_the_formula() -> None:
    for z in (-1.0, 2.0, 3.7, 9.0):
        raw = [math.exp(-((z - math.log2(stride)) ** 2) / 2) for stride in (4, 8, 16, 32)]
        found = level_shares(torch.tensor(z, dtype=torch.float64), [4, 8, 16, 32])
        assert found.tolist() == pytest.approx([one / sum(raw) for one in raw])


def test_overlap_is_a_share_of_the_first_box() -> None:
    corners = torch.tensor([[[0.0, 0, 10, 10], [5.0, 0, 25, 10], [50.0, 50, 60, 60]]])
    expected = [[1.0, 0.5, 0.0], [0.25, 1.0, 0.0], [0.0, 0.0, 1.0]]
    torch.testing.assert_close(overlap_of_first(corners)[0], torch.tensor(expected))


def test_the_sine_encoding_equals_plain_loops() -> None:
    codes, hidden = [300.0, 80.0, 5.2, -0.7], 32
    found = sine_codes(torch.tensor(codes, dtype=torch.float64), hidden).tolist()
    expected = []
    for value, divisor in zip(codes, (1000, 1000, 1, 1), strict=True):
        for k in range(hidden // 4):
            angle = value / divisor / 10000 ** (2 * (k // 2) / (hidden // 4))
            expected.append(math.sin(angle) if k % 2 == 0 else math.cos(angle))
    assert found == pytest.approx(expected)


def bilinear(plane: Tensor, x: float, y: float) -> Tensor:
    """Value (channels) at a place in cells, where cell k has its centre at k + 0.5; zero outside."""
    out = torch.zeros(plane.shape[0], dtype=plane.dtype)
    left, top = math.floor(x - 0.5), math.floor(y - 0.5)
    for row, column in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
        share = (1 - abs(y - 0.5 - row)) * (1 - abs(x - 0.5 - column))
        if 0 <= row < plane.shape[1] and 0 <= column < plane.shape[2]:
            out += share * plane[:, row, column]
    return out


def slow_mixing(module: AdaptiveMixing, content: Tensor, codes: Tensor, pyramid: list[Tensor]) -> Tensor:
    """Sampling and mixing of one image, query by query, group by group and point by point."""
    groups, inner, outer, width = module.groups, module.points_in, module.points_out, module.width
    strides = [4, 8]
    rows = []
    for state, one in zip(content, codes, strict=True):
        x, y, z, rho = one.tolist()
        box = (2 ** (z - rho / 2), 2 ** (z + rho / 2))
        offsets = module.sampling_offsets(state).view(groups, inner, 3)
        weights = module.parameters_of(state).view(groups, -1)
        mixed = []
        for group in range(groups):
            read = torch.zeros(inner, width, dtype=content.dtype)
            for point in range(inner):
                dx, dy, dz = offsets[group, point].tolist()
                raw = [math.exp(-((z + dz - math.log2(stride)) ** 2) / 2) for stride in strides]
                for stride, share, level in zip(strides, raw, pyramid, strict=True):
                    own = level[group * width : (group + 1) * width]
                    at = ((x + dx * box[0]) / stride, (y + dy * box[1]) / stride)
                    read[point] += share / sum(raw) * bilinear(own, *at)
            channels = weights[group, : width * width].view(width, width)
            points = weights[group, width * width :].view(outer, inner)
            for matrix in ("channels", "points"):
                read = read @ channels if matrix == "channels" else points @ read
                mean = read.mean()
                deviation = ((read - mean) ** 2).mean()
                read = ((read - mean) / torch.sqrt(deviation + 1e-5)).clamp(min=0)
            mixed.append(read.flatten())
        rows.append(state + module.out(torch.cat(mixed)))
    return torch.stack(rows)


def test_sampling_and_mixing_equal_plain_loops() -> None:
    torch.manual_seed(0)
    module = AdaptiveMixing(8, AdaMixerConfig(groups=2, points_in=3, points_out=5)).double()
    for linear in (module.sampling_offsets, module.parameters_of):
        torch.nn.init.normal_(linear.weight, std=0.3)
    pyramid = [torch.randn(2, 8, 6, 7).double(), torch.randn(2, 8, 3, 4).double()]
    content = torch.randn(2, 4, 8).double()
    corners = torch.tensor([[2.0, 3, 20, 15], [0.0, 0, 28, 24], [10.0, 8, 14, 22], [-9.0, 1, 3, 5]])
    codes = code(corners.double()).expand(2, -1, -1)
    with torch.no_grad():
        found = module(content, codes, LevelMaps(pyramid, [4, 8]))
        for image in range(2):
            expected = slow_mixing(module, content[image], codes[image], [one[image] for one in pyramid])
            torch.testing.assert_close(found[image], expected)


def test_initial_points_lie_in_the_box_at_the_chosen_scale() -> None:
    module = AdaptiveMixing(8, AdaMixerConfig(groups=2, points_in=3, points_out=5, point_scale=-1.5))
    offsets = module.sampling_offsets(torch.randn(8)).view(-1, 3)
    assert bool((offsets[:, :2].abs() <= 0.5).all())
    assert offsets[:, 2].tolist() == pytest.approx([-1.5] * 6)


def test_attention_equals_plain_loops_and_ignores_padding() -> None:
    torch.manual_seed(0)
    module, hidden, heads = BoxAwareAttention(16, 2, 0.0), 16, 2
    content = torch.randn(1, 4, hidden)
    codes = code(torch.tensor([[[0.0, 0, 10, 10], [5.0, 0, 25, 10], [4.0, 4, 9, 30], [0.0, 0, 9, 9]]]))
    kept = torch.tensor([[True, True, True, False]])
    with torch.no_grad():
        found = module(content, codes, kept)[0]
        x = content[0] + sine_codes(codes[0], hidden)
        query, key, value = module.qkv(x).chunk(3, -1)
        share = overlap_of_first(corners_of(codes))[0]
        mixed = torch.zeros(4, hidden)
        for head in range(heads):
            at = slice(head * 8, head * 8 + 8)
            for i in range(4):
                scores = [
                    float(query[i, at] @ key[j, at]) / math.sqrt(8)
                    + float(module.cover[head]) * math.log(float(share[i, j]) + 1e-7)
                    for j in range(3)
                ]
                top = max(scores)
                weights = [math.exp(one - top) for one in scores]
                for j, weight in enumerate(weights):
                    mixed[i, at] += weight / sum(weights) * value[j, at]
        expected = module.norm(x + module.out(mixed))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    other = content.clone()
    other[0, 3] += 5
    with torch.no_grad():
        torch.testing.assert_close(module(other, codes, kept)[0, :3], found[:3])


def test_a_new_stage_keeps_the_boxes_and_passes_no_gradient_through_them() -> None:
    torch.manual_seed(0)
    model = ModelConfig(hidden=32, heads=2, ffn=16, dropout=0.0)
    stage = Stage(Config(model=model, adamixer=AdaMixerConfig(2, 3, 4)), 6)
    codes = code(torch.tensor([[[2.0, 3, 20, 15]]])).requires_grad_()
    content = torch.randn(1, 1, 32, requires_grad=True)
    maps = LevelMaps([torch.randn(1, 32, 6, 7)], [4])
    found = stage(content, codes, torch.ones(1, 1, dtype=torch.bool), maps)
    torch.testing.assert_close(found.codes, codes)
    (found.codes.sum() + found.content.square().sum()).backward()
    assert codes.grad is None
    assert content.grad is not None
    assert float(found.objectness.sigmoid()) == pytest.approx(0.01, abs=0.01)
