"""Score fusion against plain loops (docs/method/hd_ovd.md, eqs. 50 to 54)."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from cckt.cache_builder.base.errors import UserError
from cckt.detector.config.config import InferenceConfig
from cckt.detector.inference.postprocess import configured_scores
from cckt.detector.students.contract import StudentOutput
from tests.detector.losses.hd_samples import slow_softmax
from tests.detector.students.samples import some_boxes, unit

BASE = np.array([True, True, False, True, False])


def some_output() -> StudentOutput:
    shape = (2, 3, 4)
    return StudentOutput(
        some_boxes(*shape),
        torch.randn(*shape, 5),
        unit(*shape, 6),
        text_region=unit(*shape, 6),
        relation=torch.randn(*shape, 6),
        background=torch.nn.Parameter(torch.randn(6)),
    )


def scores(output: StudentOutput, text: torch.Tensor, **values: Any) -> torch.Tensor:
    options = replace(InferenceConfig(classification="fusion"), **values)
    return configured_scores(options, output, text, 0.07, None, None, BASE)


def slow_scores(output: StudentOutput, text: torch.Tensor, second: str, alpha: float, beta: float) -> Any:
    """One number at a time."""
    assert output.text_region is not None
    assert output.relation is not None
    assert output.background is not None
    background = output.background.detach() / output.background.detach().norm()
    result = torch.zeros(3, 4, 5)
    for b in range(3):
        for n in range(4):
            g, h = output.text_region[-1, b, n], output.relation[-1, b, n]
            first = slow_softmax([50 * float(g @ one) for one in [*text, background]])
            cosines = [float(h @ one) / float(h.norm()) for one in text]
            other = slow_softmax([20 * one for one in cosines])
            if second == "sigmoid":
                other = [1 / (1 + math.exp(-20 * one)) for one in cosines]
            fused = []
            for c in range(5):
                exponent = alpha if BASE[c] else beta
                fused.append(first[c] ** (1 - exponent) * other[c] ** exponent)
            total = sum(fused) + first[5]
            result[b, n] = torch.tensor([one / total for one in fused])
    return result


@pytest.mark.parametrize("second", ["softmax", "sigmoid"])
@pytest.mark.parametrize(("alpha", "beta"), [(0.35, 0.65), (0.0, 0.0), (1.0, 0.2)])
def test_scores_equal_plain_loops(second: str, alpha: float, beta: float) -> None:
    torch.manual_seed(0)
    output, text = some_output(), unit(5, 6)
    found = scores(output, text, fusion_second=second, fusion_alpha=alpha, fusion_beta=beta)
    assert not found.requires_grad, "the background is a parameter"
    expected = slow_scores(output, text, second, alpha, beta)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_exponents_of_0_leave_the_first_score() -> None:
    torch.manual_seed(1)
    output, text = some_output(), unit(5, 6)
    found = scores(output, text, fusion_alpha=0.0, fusion_beta=0.0)
    other = scores(replace(output, relation=None), text, fusion_alpha=0.0, fusion_beta=0.0)
    torch.testing.assert_close(found, other)


def test_any_run_can_fuse_its_class_head_with_its_region_embedding() -> None:
    torch.manual_seed(2)
    whole, text = some_output(), unit(5, 6)
    output = StudentOutput(whole.boxes, whole.logits, whole.region)
    found = scores(output, text)
    for b in range(3):
        for n in range(4):
            second = slow_softmax([20 * float(output.region[-1, b, n] @ one) for one in text])
            for c in range(5):
                first = 1 / (1 + math.exp(-float(output.logits[-1, b, n, c])))
                exponent = 0.35 if BASE[c] else 0.65
                expected = first ** (1 - exponent) * second[c] ** exponent
                assert float(found[b, n, c]) == pytest.approx(expected, rel=1e-4)


def test_priors_weigh_fused_scores_and_padding_scores_0() -> None:
    torch.manual_seed(3)
    kept = torch.ones(3, 4, dtype=torch.bool)
    kept[1, 2:] = False
    output, text = replace(some_output(), kept=kept), unit(5, 6)
    options = InferenceConfig(classification="fusion", prior_weight=1.0)
    priors = np.full((3, 5), 0.5, np.float32)
    priors[:, 1] = 0.9
    plain = scores(output, text)
    found = configured_scores(options, output, text, 0.07, None, priors, BASE)
    assert bool((found[..., 1] > plain[..., 1])[kept].all())
    torch.testing.assert_close(found[..., 0], plain[..., 0])
    assert not bool(found[~kept].any())


@pytest.mark.parametrize(
    "values",
    [{"fusion_alpha": 1.5}, {"fusion_beta": -0.1}, {"fusion_scale_1": -1.0}, {"fusion_scale_2": -1.0}],
)
def test_options_out_of_range_are_refused(values: dict[str, Any]) -> None:
    (name,) = values
    with pytest.raises(UserError, match=f"option inference.{name}"):
        InferenceConfig(**values)
