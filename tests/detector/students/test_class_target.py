"""Class losses whose target is how well the box fits, against plain loops."""

from __future__ import annotations

import math

import pytest
import torch

from cckt.detector.config.config import LossConfig
from cckt.detector.students.boxes import paired_iou
from cckt.detector.students.detection_loss import class_loss, detection_losses, focal_loss
from cckt.detector.students.targets import pad_targets
from tests.detector.students.samples import CONCEPTS, LAYERS, WIDTH, matched, some_output, some_targets, unit


def plain_iou(a: list[float], b: list[float]) -> float:
    sides = []
    for axis in (0, 1):
        low = max(a[axis] - a[axis + 2] / 2, b[axis] - b[axis + 2] / 2)
        high = min(a[axis] + a[axis + 2] / 2, b[axis] + b[axis + 2] / 2)
        sides.append(max(high - low, 0.0))
    shared = sides[0] * sides[1]
    return shared / (a[2] * a[3] + b[2] * b[3] - shared)


def slow_loss(logit: float, iou: float | None, kind: str, alpha: float, gamma: float) -> float:
    """Eqs. 33 and 34 for one logit. iou: None for a negative."""
    p = 1 / (1 + math.exp(-logit))
    if iou is None:
        return (1 - alpha if kind == "varifocal" else 1.0) * p**gamma * -math.log(1 - p)
    target = iou if kind == "varifocal" else iou**gamma
    entropy = -target * math.log(p) - (1 - target) * math.log(1 - p)
    return (iou if kind == "varifocal" else 1.0) * entropy


@pytest.mark.parametrize("gamma", [2.0, 1.5])
@pytest.mark.parametrize("kind", ["varifocal", "mal"])
def test_the_loss_equals_plain_loops(kind: str, gamma: float) -> None:
    torch.manual_seed(0)
    targets = [some_targets([0, 3]), some_targets([]), some_targets([2, 2, 1])]
    output, text = some_output(3), unit(CONCEPTS, WIDTH)
    for image, target in enumerate(targets):  # some boxes that fit well
        output.boxes.data[:, image, : len(target)] = target.boxes + 0.02
    pairs, padded = matched(output, targets, text), pad_targets(targets)
    config = LossConfig(class_target=kind, gamma=gamma)  # type: ignore[arg-type]
    found = detection_losses(output, padded, pairs, config)
    expected, seen = 0.0, []
    for layer in range(LAYERS):
        for image, target in enumerate(targets):
            regions, objects = pairs.of_image(layer, image)
            own = dict(zip(regions.tolist(), objects.tolist(), strict=True))
            for region in range(output.logits.shape[2]):
                for concept in range(CONCEPTS):
                    iou = None
                    if region in own and int(target.concepts[own[region]]) == concept:
                        box = output.boxes[layer, image, region].tolist()
                        iou = plain_iou(box, target.boxes[own[region]].tolist())
                        seen.append(iou)
                    logit = float(output.logits[layer, image, region, concept].detach())
                    expected += slow_loss(logit, iou, kind, config.alpha, gamma)
    assert max(seen) > 0.3
    assert float(found["class"].detach()) == pytest.approx(2 * expected, rel=1e-4)
    found["class"].backward()  # type: ignore[no-untyped-call]
    assert output.boxes.grad is None  # no gradient through the IoU
    assert output.logits.grad is not None
    assert bool(output.logits.grad.isfinite().all())


def test_the_focal_target_is_the_focal_loss() -> None:
    torch.manual_seed(1)
    logits, boxes = torch.randn(4, 3), torch.rand(4, 4)
    positive = logits[:, 1]
    weight = torch.tensor([1.0, 0.0, 1.0, 1.0])
    found = class_loss(logits, positive, boxes, boxes, LossConfig(), weight)
    assert torch.equal(found, focal_loss(logits, positive, 0.25, 2.0, weight))


def test_padding_has_no_loss_of_a_positive() -> None:
    logits, boxes = torch.randn(4, 3), torch.rand(4, 4) * 0.2 + 0.3
    config = LossConfig(class_target="mal")
    none = class_loss(logits, logits[:, 1], boxes, boxes, config, torch.zeros(4))
    expected = sum(slow_loss(float(x), None, "mal", 0.25, 2.0) for x in logits.flatten())
    assert float(none) == pytest.approx(expected, rel=1e-4)


def test_a_perfect_box_has_target_1() -> None:
    boxes = torch.tensor([[0.5, 0.5, 0.2, 0.4]])
    assert float(paired_iou(boxes, boxes)) == pytest.approx(1, abs=1e-6)
    logits = torch.tensor([[0.3]])
    for kind in ("varifocal", "mal"):
        config = LossConfig(class_target=kind)  # type: ignore[arg-type]
        found = class_loss(logits, logits[:, 0], boxes, boxes, config)
        assert float(found) == pytest.approx(math.log(1 + math.exp(-0.3)), rel=1e-5)
