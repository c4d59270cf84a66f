"""The auxiliary one-to-many head on the encoder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cckt.cache_builder.base.errors import UserError
from cckt.detector.config.config import apply_overrides
from cckt.detector.students.build import build_student
from cckt.detector.students.contract import PresentText
from cckt.detector.students.deformable_detr import criterion
from cckt.detector.students.deformable_detr.criterion import class_agnostic, without_concepts
from cckt.detector.students.deformable_detr.model import DeformableDETR
from cckt.detector.students.detection_loss import detection_losses
from cckt.detector.students.targets import Targets, pad_targets
from cckt.detector.training.train import train
from tests.detector.tiny import WIDTH, make_data, tiny_config

REPEATS = 3


def student(*assignments: str) -> DeformableDETR:
    torch.manual_seed(0)
    config = tiny_config(f"one_to_many.encoder_repeats={REPEATS}", *assignments)
    model = build_student(config, WIDTH)
    assert isinstance(model, DeformableDETR)
    return model


def some_targets(*counts: int) -> list[Targets]:
    torch.manual_seed(1)
    return [Targets(torch.rand(count, 4) * 0.3 + 0.3, torch.randint(0, 4, (count,))) for count in counts]


TEXT = torch.nn.functional.normalize(torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(0)), dim=1)


@pytest.mark.parametrize("reference", ["learned", "encoder", "guided"])
@pytest.mark.parametrize("counts", [(2, 1), (0, 0)])
def test_each_object_has_several_cells_and_every_parameter_a_gradient(
    reference: str, counts: tuple[int, int]
) -> None:
    model = student(f"model.reference={reference}").train()
    targets = pad_targets(some_targets(*counts))
    present = PresentText.gather(TEXT, [torch.tensor([0, 1]), torch.tensor([2])])
    rows = torch.tensor([[0, 1], [2, -1]])
    output = model(torch.randn(2, 3, 64, 64), None, TEXT, present)
    pairs = model.match(output, targets, TEXT)
    assert output.dense is not None
    assert pairs.dense is not None
    assert pairs.dense.regions.shape == (1, REPEATS * sum(counts))
    for image, count in enumerate(counts):
        regions, objects = pairs.dense.of_image(0, image)
        assert len(set(regions.tolist())) == len(regions)
        assert sorted(objects.tolist()) == sorted(list(range(count)) * REPEATS)
    loss = model.detection_loss(output, targets, pairs, rows, None)
    parts = detection_losses(
        class_agnostic(output.dense), without_concepts(targets), pairs.dense, model.config.loss
    )
    expected = float(sum(part.detach() for part in parts.values())) / REPEATS
    assert float(loss.auxiliary["encoder_head"].detach()) == pytest.approx(expected)
    every = [*loss.losses.values(), *loss.auxiliary.values()]
    zero = sum(
        (one.sum() for one in (output.region, *(extra.region for extra in loss.extra))), torch.tensor(0.0)
    )
    (torch.stack(every).sum() + 0 * zero).backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert bool(parameter.grad.isfinite().all()), name
    head = [one.grad for name, one in model.named_parameters() if name.startswith("encoder_head.objectness")]
    assert any(bool(one.any()) for one in head if one is not None)


def test_the_weight_scales_the_loss_and_the_head_is_absent_in_evaluation() -> None:
    targets, images = pad_targets(some_targets(2)), torch.randn(1, 3, 64, 64)
    values = []
    for weight in (1.0, 2.5):
        model = student(f"one_to_many.encoder_weight={weight}", "model.dropout=0").train()
        output = model(images, None, TEXT, None)
        pairs = model.match(output, targets, TEXT)
        found = criterion.detection_loss(output, targets, pairs, None, None, model.config)
        values.append(float(found.auxiliary["encoder_head"].detach()))
    assert values[1] == pytest.approx(2.5 * values[0])
    assert model.eval()(images, None, TEXT, None).dense is None


def test_without_it_there_is_no_head() -> None:
    model = build_student(tiny_config(), WIDTH)
    assert not any(name.startswith("encoder_head") for name, _ in model.named_parameters())


def test_negative_options_are_refused() -> None:
    for name in ("encoder_repeats", "encoder_weight"):
        with pytest.raises(UserError, match=rf"one_to_many\.{name}"):
            apply_overrides(tiny_config(), [f"one_to_many.{name}=-1"])


def test_a_run_with_the_head_and_mosaics_resumes_to_the_bit(tmp_path: Path) -> None:
    folder = make_data(tmp_path / "data")
    config = tiny_config(
        "one_to_many.encoder_repeats=2", "loss.class_target=mal", "data.mosaic=0.5", "train.epochs=1"
    )
    train(config, folder, None, tmp_path / "whole")
    train(config, folder, None, tmp_path / "parts", stop_after=1)
    train(config, folder, None, tmp_path / "parts", resume=True)
    files = [tmp_path / name / "model.safetensors" for name in ("whole", "parts")]
    assert files[0].read_bytes() == files[1].read_bytes()
