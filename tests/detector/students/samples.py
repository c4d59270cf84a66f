"""Random outputs and targets, and plain reference computations, for tests of students and losses."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from cckt.detector.config.config import (
    Config,
    GuidanceConfig,
    MatcherConfig,
    ModelConfig,
    OneToManyConfig,
    changed,
)
from cckt.detector.losses.objective import Objective
from cckt.detector.students.contract import StudentOutput
from cckt.detector.students.deformable_detr import criterion
from cckt.detector.students.deformable_detr.model import DeformableDETR
from cckt.detector.students.deformable_detr.outputs import DeformableOutput, DeformablePairs, TrainingQueries
from cckt.detector.students.targets import PaddedTargets, Targets, TeacherRows, pad_targets

LAYERS, QUERIES, CONCEPTS, WIDTH, TAU = 2, 4, 5, 6, 0.07

TINY = ModelConfig(
    backbone="test_resnet",
    backbone_weights="none",
    strides=(8, 16),
    levels=3,
    hidden=32,
    heads=4,
    points=2,
    encoder_layers=1,
    decoder_layers=2,
    ffn=32,
    dropout=0.0,
    queries=7,
)


def student(model: ModelConfig, width: int = WIDTH, *, guidance: bool = True) -> DeformableDETR:
    return DeformableDETR(Config(model=model, guidance=GuidanceConfig(enabled=guidance)), width)


def unit(*shape: int) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(*shape), dim=-1)


def some_boxes(*shape: int) -> Tensor:
    return torch.cat([torch.rand(*shape, 2) * 0.6 + 0.2, torch.rand(*shape, 2) * 0.3 + 0.05], -1)


def some_targets(concepts: Sequence[int], valid: Sequence[bool] | None = None) -> Targets:
    """Objects of these concepts; if `valid` is False the embedding is NaN, which must have no effect."""
    count = len(concepts)
    keep = torch.ones(count, dtype=torch.bool) if valid is None else torch.tensor(valid, dtype=torch.bool)
    embeddings = unit(count, WIDTH)
    embeddings[~keep] = math.nan
    rows = {"crop": TeacherRows(embeddings, keep)}
    return Targets(some_boxes(count), torch.tensor(concepts, dtype=torch.int64), rows)


def embeddings_of(targets: Targets) -> Tensor:
    return targets.teacher["crop"].values


def valid_of(targets: Targets) -> Tensor:
    return targets.teacher["crop"].valid


def some_output(batch: int, queries: int = QUERIES) -> DeformableOutput:
    """A random output whose tensors need gradients."""
    shape = (LAYERS, batch, queries)
    return DeformableOutput(
        some_boxes(*shape).requires_grad_(),
        (torch.randn(*shape, CONCEPTS) * 2).requires_grad_(),
        unit(*shape, WIDTH).requires_grad_(),
    )


def of_image(output: StudentOutput, image: int) -> DeformableOutput:
    at = slice(image, image + 1)
    return DeformableOutput(output.boxes[:, at], output.logits[:, at], output.region[:, at])


def matched(
    output: DeformableOutput,
    targets: Sequence[Targets] | PaddedTargets,
    text: Tensor,
    matcher: MatcherConfig | None = None,
    repeats: int = 0,
) -> DeformablePairs:
    config = Config(matcher=matcher or MatcherConfig(), one_to_many=OneToManyConfig(repeats=repeats))
    return criterion.match(output, pad_targets(targets), text, config)


def losses_of(
    output: DeformableOutput,
    targets: Sequence[Targets] | PaddedTargets,
    pairs: DeformablePairs,
    config: Config | None = None,
    *,
    contrast: bool,
    divisor: float | Tensor | None = None,
    present: Tensor | None = None,
    training: TrainingQueries | None = None,
) -> dict[str, Tensor]:
    """Return all losses of student and terms, divided by all objects. contrast: in an epoch with the
    contrast."""
    first = 0 if contrast else 1
    config = changed(config or Config(), "terms.region_contrast", first_epoch=first, divisor="objects")
    padded = pad_targets(targets)
    detection = criterion.detection_loss(output, padded, pairs, present, training, config)
    objective = Objective(config, WIDTH, extra_regions=output.cells is not None)
    return dict(objective(output, pairs, detection, padded, epoch=0, divisor=divisor))


def slow_giou(a: list[float], b: list[float]) -> float:
    """GIoU of two cxcywh boxes, in plain arithmetic."""
    (ax, ay, aw, ah), (bx, by, bw, bh) = a, b
    left, right = max(ax - aw / 2, bx - bw / 2), min(ax + aw / 2, bx + bw / 2)
    top, bottom = max(ay - ah / 2, by - bh / 2), min(ay + ah / 2, by + bh / 2)
    shared = max(right - left, 0) * max(bottom - top, 0)
    union = aw * ah + bw * bh - shared
    hull = max(ax + aw / 2, bx + bw / 2) - min(ax - aw / 2, bx - bw / 2)
    hull *= max(ay + ah / 2, by + bh / 2) - min(ay - ah / 2, by - bh / 2)
    return shared / union - (hull - union) / hull


def slow_focal(logit: float, target: bool) -> float:
    p = 1 / (1 + math.exp(-logit))
    return 0.25 * (1 - p) ** 2 * -math.log(p) if target else 0.75 * p**2 * -math.log(1 - p)


def slow_cross_entropy(scores: list[float], target: int) -> float:
    top = max(scores)
    return math.log(sum(math.exp(one - top) for one in scores)) + top - scores[target]
