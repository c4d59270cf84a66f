"""One step: its gradient does not depend on how the batch is divided into parts or ranks."""

from __future__ import annotations

import os

import pytest
import torch
from torch import nn

from cckt.detector.data.batch import collate
from cckt.detector.data.dataset import Place, TrainingPhotos
from cckt.detector.losses.objective import Objective
from cckt.detector.losses.terms import region_contrast
from cckt.detector.ranks.world import World, joined
from cckt.detector.students.build import build_student
from cckt.detector.training.optim import parameter_groups
from cckt.detector.training.preflight import gather
from cckt.detector.training.step import Stepper
from tests.detector.tiny import free_port, make_data, tiny_config

CPU = World(0, 1, torch.device("cpu"))


def make_stepper(folder, *assignments, world=CPU, rows=(0, 1, 3, 5), part=slice(None)):
    """Return a stepper with plain gradient descent, so that a step shows the gradient, and a batch."""
    config = tiny_config(
        "model.norm=group",
        "model.dropout=0",
        "train.clip_norm=0",
        "train.lr=1",
        "train.backbone_lr_factor=1",
        "train.sampling_lr_factor=1",
        "terms.region_contrast.first_epoch=0",
        "data.flip=0",
        "data.random_crop=false",
        "data.short_sides=64",
        "guidance.order=row",
        *assignments,
    )
    found = gather(config, folder)
    torch.manual_seed(0)
    model = build_student(config, 16)
    objective = Objective(config, 16, extra_regions=model.has_extra_regions)
    optimizer = torch.optim.SGD(parameter_groups(model, config.train), lr=1)
    photos = TrainingPhotos(folder, config)
    batch = collate([photos[Place(0, row, row)] for row in rows[part]])
    wrapped = world.wrap(model)
    stepper = Stepper(model, wrapped, objective, found.text, config, world, optimizer, None, 10)
    return stepper, batch


@pytest.fixture(scope="module")
def square(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("square"), photos=8)


def assert_same_step(found, expected, start):
    """Assert that the gradients, shown by plain descent at rate 1, differ by at most 1e-5 of their norm.

    A tensor with a small gradient is compared with a tenth of the norm of the whole gradient.
    """
    before = start.model.state_dict()
    whole = torch.stack([(value - before[name]).norm() for name, value in expected.items()]).norm()
    for name, value in expected.items():
        own = (value - before[name]).norm()
        assert (found[name] - value).norm() <= 1e-5 * torch.maximum(own, 0.1 * whole), name


def test_a_non_finite_step_changes_no_weight(square, monkeypatch):
    stepper, batch = make_stepper(square)
    before = {name: value.clone() for name, value in stepper.model.state_dict().items()}
    monkeypatch.setattr(
        "cckt.detector.training.step.normalise", lambda images, *_: images.float() * float("nan")
    )
    result = stepper([batch], 0)
    assert not result.finite
    assert all(torch.equal(value, before[name]) for name, value in stepper.model.named_parameters())
    monkeypatch.undo()


def test_accumulated_parts_have_the_gradient_of_the_batch(square):
    whole, batch = make_stepper(square)
    whole([batch], 0)
    parted, first = make_stepper(square, part=slice(0, 2))
    second = make_stepper(square, part=slice(2, 4))[1]
    parted([first, second], 0)
    assert_same_step(parted.model.state_dict(), whole.model.state_dict(), make_stepper(square)[0])


EVERYTHING = ("model.reference=guided", "denoise.groups=2", "one_to_many.repeats=3")
WITHOUT = ("guidance.enabled=false", "matcher.cost_similarity=0", "terms.region_contrast.weight=0")


@pytest.mark.parametrize("rows", [(1, 2, 3, 5), (0, 4)], ids=["objects", "none"])
@pytest.mark.parametrize("contrast_from", [0, 5], ids=["contrast", "no contrast yet"])
@pytest.mark.parametrize(
    "assignments",
    [
        (),
        WITHOUT,
        (*WITHOUT, "model.class_embedding=own", "inference.classification=head"),
        ("model.reference=encoder",),
        EVERYTHING,
        (*EVERYTHING, "terms.region_contrast.weight=0"),
        ("guidance.none=1",),
    ],
    ids=str,
)
def test_every_step_gives_every_parameter_a_gradient(square, assignments, contrast_from, rows):
    """Ranks rely on it: a parameter without a gradient on one rank would block the others."""
    options = (*assignments, f"terms.region_contrast.first_epoch={contrast_from}")
    stepper, batch = make_stepper(square, *options, rows=rows)
    stepper.optimizer.zero_grad = lambda set_to_none: None
    stepper([batch], 0)
    learnt = {name: one for name, one in stepper.model.named_parameters() if one.requires_grad}
    assert [name for name, one in learnt.items() if one.grad is None] == []


TOGETHER = {
    "each image by itself": (),
    "all images of the batch": ("terms.region_contrast.negatives=batch",),
    "a crop of each class": ("terms.region_contrast.teacher_bank=class",),
    "a crop of each class, all images of the batch": (
        "terms.region_contrast.teacher_bank=class",
        "terms.region_contrast.negatives=batch",
    ),
    "cells of guided references": ("model.reference=guided",),
}


def first_of_the_class(concepts, known, chance):
    """Draw without chance, which differs between ranks and a single process."""
    flat, have = concepts.flatten(), known.flatten()
    same = (flat[:, None] == flat[None]) & have[None]
    return same.int().argmax(1).view_as(concepts) if len(flat) else concepts


def batches_of(square, assignments, parts):
    return [make_stepper(square, *assignments, rows=rows)[1] for rows in parts]


def one_rank(rank, square, port, out, assignments, parts):
    """parts: the rows of each rank's micro-batches."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    with joined("cpu") as world:
        stepper, _ = make_stepper(square, *assignments, world=world)
        stepper(batches_of(square, assignments, parts[rank]), 0)
        torch.save(stepper.model.module.state_dict(), f"{out}/rank{rank}.pt")


@pytest.mark.parametrize("rows", [(0, 4, 1, 3), (7, 2, 0, 4), (1, 3, 2, 6)], ids=str)
@pytest.mark.parametrize("assignments", TOGETHER.values(), ids=TOGETHER)
def test_two_ranks_have_the_gradient_of_one_rank_with_the_whole_batch(
    square, tmp_path, monkeypatch, rows, assignments
):
    """Photos 0 and 4 have no boxes."""
    monkeypatch.setattr(region_contrast, "_draw", first_of_the_class)
    assert_two_ranks_equal_one(square, tmp_path, assignments, [[rows[:2]], [rows[2:]]], [rows])


@pytest.mark.parametrize("assignments", TOGETHER.values(), ids=TOGETHER)
def test_two_ranks_with_two_parts_equal_one_rank_with_two_parts(square, tmp_path, monkeypatch, assignments):
    """A part's photos are contrasted with those of the same part on the other rank."""
    monkeypatch.setattr(region_contrast, "_draw", first_of_the_class)
    assert_two_ranks_equal_one(square, tmp_path, assignments, [[(1,), (4,)], [(3,), (2,)]], [(1, 3), (4, 2)])


def assert_two_ranks_equal_one(square, tmp_path, assignments, parts, together):
    given = (square, free_port(), str(tmp_path), assignments, parts)
    torch.multiprocessing.start_processes(one_rank, given, 2, start_method="fork")
    whole, _ = make_stepper(square, *assignments)
    whole(batches_of(square, assignments, together), 0)
    start = make_stepper(square, *assignments)[0].model.state_dict()
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(ranks[0][name], ranks[1][name], atol=0, rtol=0)
        assert ranks[0][name].shape == value.shape
    assert_same_step(ranks[0], whole.model.state_dict(), make_stepper(square, *assignments)[0])
    assert any(not torch.equal(start[name], value) for name, value in ranks[0].items())


def test_wrapping_for_one_rank_returns_the_module():
    model = nn.Linear(1, 1)
    assert CPU.wrap(model) is model


@pytest.mark.parametrize(
    ("assignments", "trained"),
    [
        (("terms.region_contrast.first_epoch=1",), [False, True]),
        (("terms.region_contrast.first_epoch=1", "model.class_embedding=region"), [True, True]),
        (("terms.region_contrast.weight=0",), [False, False]),
    ],
)
def test_matching_knows_whether_the_region_embedding_is_trained(square, assignments, trained):
    stepper, batch = make_stepper(square, *assignments)
    known = []
    for step in (9, 10):  # an epoch has ten steps
        stepper([batch], step)
        known.append(stepper.student.region_trained)
    assert known == trained
