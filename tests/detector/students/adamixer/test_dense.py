"""Dense boxes of AdaMixer against plain loops (docs/method/hd_ovd.md, eqs. 40 to 42)."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cckt.detector.config.config import Config, MatcherConfig, changed
from cckt.detector.students.adamixer.dense import DenseHead, exchanged
from cckt.detector.students.adamixer.dense_loss import (
    DenseGoals,
    SoftTargets,
    one_to_many,
    one_to_one,
    quality_loss,
    soft_targets,
)
from cckt.detector.students.adamixer.outputs import DenseBoxes
from cckt.detector.students.contract import MASKED
from cckt.detector.students.first_boxes import cell_corners
from cckt.detector.students.targets import ProposalBoxes, Targets, pad_targets
from tests.detector.students.samples import slow_giou, some_boxes


def slow_iou(a: list[float], b: list[float]) -> float:
    """IoU of two cxcywh boxes."""
    (ax, ay, aw, ah), (bx, by, bw, bh) = a, b
    width = max(0.0, min(ax + aw / 2, bx + bw / 2) - max(ax - aw / 2, bx - bw / 2))
    height = max(0.0, min(ay + ah / 2, by + bh / 2) - max(ay - ah / 2, by - bh / 2))
    return width * height / (aw * ah + bw * bh - width * height)


def goals_of(*boxes: Tensor, proposals: Tensor | None = None) -> DenseGoals:
    targets = []
    for one in boxes:
        regions = None
        if proposals is not None:
            regions = ProposalBoxes(proposals, torch.zeros(len(proposals), dtype=torch.bool))
        targets.append(Targets(one, torch.zeros(len(one), dtype=torch.int64), {}, regions))
    return DenseGoals.of(pad_targets(targets))


def near(boxes: Tensor, count: int) -> Tensor:
    """`count` boxes around each of some boxes."""
    repeated = boxes.repeat_interleave(count, 0)
    return (repeated + torch.randn_like(repeated) * 0.03).clamp(0.05, 0.95)


def test_goals_are_objects_and_then_all_proposals_without_gaps() -> None:
    objects, proposals = some_boxes(3), some_boxes(2)
    goals = goals_of(objects[:1], objects, proposals=proposals)
    assert goals.counts == (3, 5)
    assert goals.real.tolist() == [[True] * 3 + [False] * 2, [True] * 5]
    torch.testing.assert_close(goals.boxes[0, :3], torch.cat([objects[:1], proposals]))
    torch.testing.assert_close(goals.boxes[1], torch.cat([objects, proposals]))


def test_objectness_is_a_cosine_over_channels() -> None:
    torch.manual_seed(0)
    head = DenseHead(32, 6, 1, scale=3.0)
    level, stride = torch.randn(1, 32, 2, 3), 8
    with torch.no_grad():
        (logits,), (boxes,) = head(
            [level],
            [cell_corners(level, stride)],
            [torch.tensor([[True] * 5 + [False]])],
            [stride],
            torch.tensor([[[24.0, 16.0]]]),
        )
        x, far = head.embed(F.relu(head.state(level)))[0], head.box(F.relu(head.box_state(level)))[0]
        for row in range(2):
            for column in range(3):
                cell = row * 3 + column
                own, generic = x[:, row, column], head.generic
                cosine = float(own @ generic) / (float(own.norm()) * float(generic.norm()))
                expected = 3.0 * cosine - math.log(99) if cell < 5 else MASKED
                assert float(logits[0, cell]) == pytest.approx(expected, abs=1e-4)
                left, top, right, bottom = (far[:, row, column].exp() * stride).tolist()
                centre = ((column + 0.5) * stride, (row + 0.5) * stride)
                found = boxes[0, cell] * torch.tensor([24.0, 16.0, 24.0, 16.0])
                assert found.tolist() == pytest.approx(
                    [
                        centre[0] + (right - left) / 2,
                        centre[1] + (bottom - top) / 2,
                        left + right,
                        top + bottom,
                    ],
                    rel=1e-4,
                )


def test_channels_are_exchanged_with_the_neighbours() -> None:
    levels = [torch.full((1, 8, 4, 4), 1.0), torch.full((1, 8, 2, 2), 2.0), torch.full((1, 8, 1, 1), 3.0)]
    found = [one[0].mean((1, 2)).tolist() for one in exchanged(levels)]
    assert found[0] == [1, 1, 1, 1, 1, 1, 2, 2]
    assert found[1] == [2, 2, 2, 2, 1, 1, 3, 3]
    assert found[2] == [3, 3, 3, 3, 2, 2, 3, 3]


def test_soft_targets_equal_plain_loops() -> None:
    torch.manual_seed(0)
    objects = some_boxes(2)
    goals, boxes = goals_of(objects), near(objects, 3)
    found = DenseBoxes(torch.randn(1, 6), boxes[None])
    member = torch.zeros(1, 6, 2, dtype=torch.bool)
    member[0, [0, 1], 0], member[0, [3, 5], 1] = True, True
    aim = soft_targets(found, member, goals)
    for goal, own in enumerate(([0, 1], [3, 5])):
        iou = {k: slow_iou(boxes[k].tolist(), objects[goal].tolist()) for k in own}
        aligned = {k: float(found.objectness[0, k].sigmoid()) * iou[k] ** 6 for k in own}
        for k in own:
            expected = aligned[k] / max(aligned.values()) * max(iou.values())
            assert float(aim.value[0, k]) == pytest.approx(expected, rel=1e-4)
            assert int(aim.goal[0, k]) == goal
    assert aim.value[0, [2, 4]].tolist() == [0, 0]


def test_one_to_many_takes_the_best_points_inside_each_box() -> None:
    torch.manual_seed(1)
    objects = some_boxes(2)
    boxes = torch.cat([near(objects, 5), some_boxes(4)])
    goals, count = goals_of(objects), 3
    logits = torch.randn(1, len(boxes))
    logits[0, 0] = MASKED
    found = DenseBoxes(logits, boxes[None])
    points = boxes[None, :, :2].clone()
    points[0, 1] = 2.0  # outside of every box
    aim = one_to_many(found, points, goals, count)
    wanted: dict[int, tuple[int, float]] = {}
    for goal, one in enumerate(objects.tolist()):
        iou = [slow_iou(box, one) for box in boxes.tolist()]
        score = [float(logits[0, k].sigmoid()) * iou[k] ** 6 for k in range(len(boxes))]
        best = sorted((k for k in range(len(boxes)) if k != 0), key=lambda k: -score[k])[:count]
        for k in best:
            x, y = points[0, k].tolist()
            within = abs(x - one[0]) < one[2] / 2 and abs(y - one[1]) < one[3] / 2
            if within and iou[k] > wanted.get(k, (-1, -1.0))[1]:
                wanted[k] = (goal, iou[k])
    chosen = {k: int(aim.goal[0, k]) for k in range(len(boxes)) if float(aim.value[0, k]) > 0}
    assert chosen == {k: goal for k, (goal, overlap) in wanted.items() if overlap > 0}
    assert chosen


def test_one_to_one_gives_each_box_one_candidate_and_no_padding() -> None:
    torch.manual_seed(2)
    objects = some_boxes(3)
    boxes = near(objects, 2)
    logits = torch.zeros(1, 6)
    logits[0, 0] = MASKED
    aim = one_to_one(DenseBoxes(logits, boxes[None]), goals_of(objects), MatcherConfig())
    positive = (aim.value[0] > 0).nonzero()[:, 0].tolist()
    assert len(positive) == 3
    assert 0 not in positive
    assert sorted(aim.goal[0, positive].tolist()) == [0, 1, 2]


def test_the_loss_equals_plain_loops() -> None:
    torch.manual_seed(3)
    config = changed(Config(), "adamixer", loss_dense_class=0.5, loss_dense_giou=3.0)
    objects = some_boxes(2)
    boxes, goals = near(objects, 2), goals_of(objects)
    logits = torch.randn(1, 4)
    logits[0, 3] = MASKED
    value = torch.tensor([[0.8, 0.0, 0.5, 0.0]])
    aim = SoftTargets(torch.tensor([[0, 0, 1, 0]]), value)
    focal = distance = 0.0
    for k in range(3):
        p, y = float(logits[0, k].sigmoid()), float(value[0, k])
        focal += abs(y - p) ** 2 * -(y * math.log(p) + (1 - y) * math.log(1 - p))
        distance += y * (1 - slow_giou(boxes[k].tolist(), objects[int(aim.goal[0, k])].tolist()))
    expected = (0.5 * focal + 3.0 * distance) / 1.3
    found = quality_loss(DenseBoxes(logits, boxes[None]), aim, goals, config)
    assert float(found) == pytest.approx(expected, rel=1e-4)


def test_without_goals_all_is_background() -> None:
    found = DenseBoxes(torch.zeros(1, 4, requires_grad=True), some_boxes(1, 4).requires_grad_())
    goals = goals_of(some_boxes(0))
    points = torch.rand(1, 4, 2)
    for aim in (one_to_one(found, goals, MatcherConfig()), one_to_many(found, points, goals, 2)):
        assert aim.value.tolist() == [[0.0] * 4]
        loss = quality_loss(found, aim, goals, Config())
        assert float(loss) == pytest.approx(4 * 0.25 * math.log(2))
        loss.backward()
    assert found.boxes.grad is not None
    assert not bool(found.boxes.grad.any())
