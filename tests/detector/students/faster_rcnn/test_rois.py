"""Codes, RoI sampling, RoIAlign and pairs of Faster R-CNN against plain loops and torchvision."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import MultiScaleRoIAlign

from cckt.detector.config.config import Config, changed
from cckt.detector.config.students import FasterRcnnConfig
from cckt.detector.students.faster_rcnn import criterion
from cckt.detector.students.faster_rcnn.codes import ROI_SCALES, decode, encode
from cckt.detector.students.faster_rcnn.outputs import RoiOutput
from cckt.detector.students.faster_rcnn.rois import (
    RoiGoals,
    _read_grid,
    draw_rois,
    levels_of,
    pairwise_iou,
    read_regions,
)
from cckt.detector.students.faster_rcnn.rpn import RegionProposer
from cckt.detector.students.targets import ProposalBoxes, pad_targets
from tests.detector.students.samples import some_boxes, some_targets
from tests.detector.students.test_first_boxes import slow_iou, some_corners

SIZES = torch.tensor([[64.0, 48.0], [40.0, 48.0]])


def test_codes_are_torchvisions() -> None:
    boxes, references = some_corners(7) * 50, some_corners(7) * 50
    coder = BoxCoder(ROI_SCALES)
    codes = encode(boxes, references, ROI_SCALES)
    torch.testing.assert_close(codes, coder.encode_single(boxes, references), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(decode(codes, references, ROI_SCALES), boxes, atol=1e-3, rtol=1e-4)
    wild = torch.full((7, 4), 1e6)
    assert bool(decode(wild, references).isfinite().all())


def test_overlaps_equal_plain_loops() -> None:
    a, b = some_corners(2, 5), some_corners(2, 3)
    found = pairwise_iou(a, b)
    for image in range(2):
        for i in range(5):
            for j in range(3):
                expected = slow_iou(a[image, i].tolist(), b[image, j].tolist())
                assert float(found[image, i, j]) == pytest.approx(expected, abs=1e-5)
    assert float(pairwise_iou(torch.zeros(1, 1, 4), b[:1, :1])) == 0


def test_levels_follow_the_size() -> None:
    sides = torch.tensor([10.0, 111, 113, 223, 225, 449, 5000])
    boxes = torch.stack([sides * 0, sides * 0, sides, sides], -1)
    assert levels_of(boxes, 4, 56.0).tolist() == [0, 0, 1, 1, 2, 3, 3]


def test_reading_equals_torchvisions_multi_scale_pooling() -> None:
    torch.manual_seed(0)
    maps = [torch.randn(2, 3, 24, 32), torch.randn(2, 3, 12, 16), torch.randn(2, 3, 6, 8)]
    boxes = some_corners(2, 9) * 90
    found = read_regions(maps, [4, 8, 16], boxes, 3, 14.0)
    peer = MultiScaleRoIAlign(["0", "1", "2"], 3, 2, canonical_scale=56, canonical_level=4)
    # torchvision's shift of half a cell differs (aligned=False): its maps are read half a cell further.
    level = levels_of(boxes.flatten(0, 1), 3, 14.0)
    stride = torch.tensor([4.0, 8, 16])[level].view(2, 9, 1)
    expected = peer(
        {str(k): one for k, one in enumerate(maps)}, list(boxes - stride / 2), [(96, 128), (96, 128)]
    )
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_the_form_of_graphs_reads_the_same() -> None:
    torch.manual_seed(0)
    maps, boxes = [torch.randn(2, 3, 12, 16)], some_corners(2, 9) * torch.tensor([120.0, 90, 120, 90])
    found = _read_grid(maps[0], 8, boxes, 3)
    torch.testing.assert_close(found, read_regions(maps, [8], boxes, 3, 14.0), atol=1e-4, rtol=1e-4)


def some_goals(counts: tuple[int, int], proposals: bool) -> RoiGoals:
    targets = [some_targets([0] * count) for count in counts]
    if proposals:
        distilled = torch.tensor([True, False])
        targets = [replace(one, proposals=ProposalBoxes(some_boxes(2), distilled)) for one in targets]
    return RoiGoals.of(pad_targets(targets), SIZES)


@pytest.mark.parametrize("proposals", [False, True])
def test_drawn_rois_have_the_wanted_shares(proposals: bool) -> None:
    torch.manual_seed(0)
    goals = some_goals((3, 1), proposals)
    near = goals.boxes[:, :1].repeat(1, 30, 1) + torch.randn(2, 30, 4)
    boxes = torch.cat([near, some_corners(2, 20) * 40], 1)
    kept = torch.ones(2, 50, dtype=torch.bool)
    kept[1, 40:] = False
    config = FasterRcnnConfig(rois=12, roi_positives=0.25)
    rois, real = draw_rois(boxes, kept, goals, config)
    assert rois.shape == (2, 12, 4)
    assert bool(real.all())
    largest, _ = goals.assign(rois)
    assert (largest >= 0.5).sum(1).tolist() == [3, 3]
    allowed = torch.cat([goals.boxes, boxes], 1)
    for image in range(2):
        known = torch.cat([goals.real, kept], 1)[image]
        usable = {tuple(one) for one in allowed[image, known].tolist()}
        drawn = [tuple(one) for one in rois[image].tolist()]
        assert set(drawn) <= usable
        assert len(set(drawn)) == 12


def test_few_candidates_leave_padding() -> None:
    goals = some_goals((0, 1), False)
    rois, real = draw_rois(
        some_corners(2, 3) * 0.1, torch.ones(2, 3, dtype=torch.bool), goals, FasterRcnnConfig(rois=16)
    )
    assert rois.shape[1] == 4
    assert real.sum(1).tolist() == [3, 4]


def output_of(rois: torch.Tensor, kept: torch.Tensor) -> RoiOutput:
    boxes = rois[None] / 64
    return RoiOutput(boxes, boxes[..., :0], boxes[..., :0], kept=kept, rois=rois, sizes=SIZES)


def test_every_positive_roi_is_in_the_pair_of_its_best_box() -> None:
    torch.manual_seed(0)
    targets = [some_targets([0, 1, 2]), some_targets([1])]
    distilled = torch.tensor([True, False])
    targets = [replace(one, proposals=ProposalBoxes(some_boxes(2), distilled)) for one in targets]
    padded = pad_targets(targets)
    goals = RoiGoals.of(padded, SIZES)
    rois = torch.cat([goals.boxes.repeat(1, 4, 1) + torch.randn(2, 20, 4) * 2, some_corners(2, 5) * 40], 1)
    kept = torch.rand(2, 25) < 0.8
    pairs = criterion.match(output_of(rois, kept), padded, Config())
    expected: dict[str, set[tuple[int, int, int]]] = {"object": set(), "proposal": set()}
    for image in range(2):
        for region in range(25):
            overlap = [
                slow_iou(rois[image, region].tolist(), box) if real else 0.0
                for box, real in zip(goals.boxes[image].tolist(), goals.real[image].tolist(), strict=True)
            ]
            best = max(range(len(overlap)), key=lambda k: overlap[k])
            if bool(kept[image, region]) and overlap[best] >= 0.5:
                kind = "object" if best < goals.objects else "proposal"
                place = best if kind == "object" else best - goals.objects
                expected[kind].add((image, region, place))
    assert pairs.proposals is not None
    for kind, own in (("object", pairs), ("proposal", pairs.proposals)):
        found = zip(own.images.tolist(), own.regions[0].tolist(), own.objects[0].tolist(), strict=True)
        assert set(found) == expected[kind]
        assert expected[kind]
    assert 1 not in pairs.proposals.objects.tolist()[0]  # not distilled


def test_anchors_sit_on_their_cells_and_padding_is_masked() -> None:
    torch.manual_seed(0)
    config = FasterRcnnConfig(anchor_scale=2, anchor_ratios=(1.0,))
    proposer = RegionProposer(config, 32, [8, 16])
    pyramid = [torch.randn(1, 32, 2, 3), torch.randn(1, 32, 1, 2)]
    found = proposer(pyramid, torch.tensor([[9.0, 16.0]]))
    centres = ((found.anchors[:, :2] + found.anchors[:, 2:]) / 2).tolist()
    assert centres == [[0, 0], [8, 0], [16, 0], [0, 8], [8, 8], [16, 8], [0, 0], [16, 0]]
    assert (found.anchors[:, 2] - found.anchors[:, 0]).tolist() == [16] * 6 + [32] * 2
    hidden = (found.logits[0] < -100).tolist()
    assert hidden == [False, False, True, False, False, True, False, True]
    boxes, _, kept = proposer.best_boxes(found, pyramid, torch.tensor([[9.0, 16.0]]))
    assert bool((boxes[kept] >= 0).all())
    assert bool((boxes[kept][:, 2] <= 9).all())


def test_the_losses_of_the_rpn_count_the_sampled_anchors() -> None:
    torch.manual_seed(0)
    config = changed(Config(), "faster_rcnn", anchor_scale=2, rpn_samples=8, loss_rpn_box=2.0).faster_rcnn
    proposer = RegionProposer(config, 32, [8])
    with torch.no_grad():
        found = proposer([torch.randn(1, 32, 6, 8)], torch.tensor([[64.0, 48.0]]))
    goal = found.anchors[60][None]  # one anchor fits exactly
    found = replace(found, logits=torch.zeros_like(found.logits), codes=torch.zeros_like(found.codes))
    losses = proposer.losses(found, [goal])
    assert float(losses["rpn_class"]) == pytest.approx(0.6931, abs=1e-3)  # log 2 of every sampled anchor
    assert float(losses["rpn_box"]) == pytest.approx(0.0, abs=1e-6)
    moved = replace(found, codes=torch.full_like(found.codes, 0.5))
    assert float(proposer.losses(moved, [goal])["rpn_box"]) == pytest.approx(2.0 * 4 * 0.5 / 8)
    empty = proposer.losses(found, [goal[:0]])
    assert float(empty["rpn_box"]) == 0
    flat = torch.cat([goal, goal[:, [0, 1, 0, 3]]])  # torchvision's matcher gives all anchors to an empty box
    assert float(proposer.losses(moved, [flat])["rpn_box"]) == pytest.approx(2.0 * 4 * 0.5 / 8)
