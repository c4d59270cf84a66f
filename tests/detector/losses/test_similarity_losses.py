"""Contrast and relation loss against plain loops; masked rows leave no trace."""

from __future__ import annotations

import pytest
import torch

from cckt.detector.losses.memory import Queue
from cckt.detector.losses.similarity_losses import mean_of_rows, relation_loss, two_way_contrast
from tests.detector.losses.hd_samples import slow_contrast, slow_relation
from tests.detector.students.samples import WIDTH, unit


def test_no_rows_give_0_with_a_gradient() -> None:
    rows = torch.zeros(2, 0, WIDTH, requires_grad=True)
    kept = torch.zeros(2, 0, dtype=torch.bool)
    for loss in (two_way_contrast(rows, rows, kept, None, 20), relation_loss(rows, rows, kept, 5, 10)):
        assert float(loss.detach()) == 0
        assert loss.requires_grad
    assert float(mean_of_rows(torch.ones(1, 3), torch.zeros(1, 3, dtype=torch.bool))) == 0


@pytest.mark.parametrize("past", [0, 3])
def test_contrast_equals_plain_loops(past: int) -> None:
    torch.manual_seed(0)
    kept = torch.tensor([[True, False, True, True, False], [False, True, True, False, False]])
    student, teacher = unit(2, 5, WIDTH), unit(2, 5, WIDTH)
    queues = Queue(2, 4, WIDTH), Queue(2, 4, WIDTH)
    old = unit(2, past, WIDTH), unit(2, past, WIDTH)
    for queue, rows in zip(queues, old, strict=True):
        queue.push(rows, torch.ones(2, past, dtype=torch.bool))
    expected = 0.0
    for layer in range(2):
        a, b = ([rows[layer, i] for i in range(5) if kept[layer, i]] for rows in (student, teacher))
        expected += slow_contrast(a, b, list(old[0][layer]), list(old[1][layer]), 20)
    found = two_way_contrast(student, teacher, kept, queues, 20)
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_relation_equals_plain_loops() -> None:
    torch.manual_seed(1)
    kept = torch.tensor([[True, False, True, True, False], [False, True, True, False, False]])
    student, teacher = unit(2, 5, WIDTH), unit(2, 5, WIDTH)
    expected = 0.0
    for layer in range(2):
        x, y = ([rows[layer, i] for i in range(5) if kept[layer, i]] for rows in (student, teacher))
        expected += slow_relation(x, y, 5, 10)
    assert float(relation_loss(student, teacher, kept, 5, 10)) == pytest.approx(expected, rel=1e-4)


def test_relation_is_close_to_a_variance_of_similarities() -> None:
    """Eq. 20: 5 times the loss is about 62.5 times the mean variance of differences of similarities."""
    torch.manual_seed(2)
    student, teacher = unit(1, 12, WIDTH), unit(1, 12, WIDTH)
    gap = student[0] @ student[0].t() - teacher[0] @ teacher[0].t()
    expected = 62.5 * float(gap.var(1, unbiased=False).mean())
    found = 5 * float(relation_loss(student, teacher, torch.ones(1, 12, dtype=torch.bool), 5, 10))
    assert found == pytest.approx(expected, rel=0.1)


def test_too_few_rows_count_0_in_their_layer_alone() -> None:
    torch.manual_seed(3)
    student, teacher = unit(2, 3, WIDTH), unit(2, 3, WIDTH)
    kept = torch.tensor([[True, False, False], [True, True, False]])
    own = kept & torch.tensor([[False], [True]])
    assert float(two_way_contrast(student, teacher, kept, None, 20)) == float(
        two_way_contrast(student, teacher, own, None, 20)
    )
    assert float(relation_loss(student, teacher, kept[:1], 5, 10)) == 0


def test_gradients_equal_finite_differences() -> None:
    torch.manual_seed(4)
    kept = torch.tensor([[True, False, True, True]])
    student, teacher = unit(1, 4, WIDTH).double().requires_grad_(), unit(1, 4, WIDTH).double()
    assert torch.autograd.gradcheck(lambda x: two_way_contrast(x, teacher, kept, None, 3.0), student)
    assert torch.autograd.gradcheck(lambda x: relation_loss(x, teacher, kept, 5, 2.0), student)
