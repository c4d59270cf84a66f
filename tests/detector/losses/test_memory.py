"""Queues against a deque, prototypes against plain loops."""

from __future__ import annotations

import math
from collections import deque

import pytest
import torch

from cckt.detector.losses.memory import Prototypes, Queue, finite_rows
from tests.detector.students.samples import unit


def contents(queue: Queue, layer: int) -> list[list[float]]:
    """Rows of a layer, oldest first."""
    filled, oldest = int(queue.filled[layer]), int(queue.oldest[layer])
    first = oldest if filled == queue.capacity else 0
    return [queue.rows[layer, (first + at) % queue.capacity].tolist() for at in range(filled)]


def test_an_empty_push_and_a_queue_of_nothing() -> None:
    for capacity in (0, 4):
        queue = Queue(1, capacity, 3)
        queue.push(torch.zeros(1, 0, 3), torch.zeros(1, 0, dtype=torch.bool))
        queue.push(torch.ones(1, 2, 3), torch.zeros(1, 2, dtype=torch.bool))
        assert int(queue.filled) == 0
        assert queue.valid.shape == (1, capacity)
        assert not bool(queue.valid.any())


@pytest.mark.parametrize("most", [3, 5, 13])
def test_a_queue_keeps_the_newest_rows_in_order(most: int) -> None:
    """Pushes of 0 to `most` rows into 5 places, each layer with a mask of its own."""
    torch.manual_seed(most)
    queue, expected = Queue(2, 5, 3), [deque(maxlen=5), deque(maxlen=5)]
    for _ in range(20):
        count = int(torch.randint(0, most + 1, ()))
        rows, kept = unit(2, count, 3), torch.rand(2, count) < 0.7
        queue.push(rows, kept)
        for layer in range(2):
            expected[layer].extend(rows[layer, i].tolist() for i in range(count) if kept[layer, i])
            assert contents(queue, layer) == list(expected[layer])
            assert int(queue.valid[layer].sum()) == len(expected[layer])
    assert int(queue.filled.min()) == 5


def test_a_queue_restored_from_its_state_goes_on_to_the_bit() -> None:
    torch.manual_seed(0)
    first, second = Queue(1, 5, 3), Queue(1, 5, 3)
    pushes = [(unit(1, 4, 3), torch.rand(1, 4) < 0.8) for _ in range(6)]
    for rows, kept in pushes[:3]:
        first.push(rows, kept)
    second.load_state_dict(first.state_dict())
    for rows, kept in pushes[3:]:
        first.push(rows, kept)
        second.push(rows, kept)
    assert all(torch.equal(first.state_dict()[name], value) for name, value in second.state_dict().items())
    assert set(first.state_dict()) == {"rows", "filled", "oldest"}


@pytest.mark.parametrize("per_class", [True, False])
def test_prototypes_equal_plain_loops(per_class: bool) -> None:
    torch.manual_seed(1)
    text = unit(4, 3)
    memory = Prototypes(2, text, 0.9999, 2000, per_class)
    means = [[text[k].tolist() for k in range(4)] for _ in range(2)]
    counts = [[0] * 4 for _ in range(2)]
    for _ in range(5):
        values, present = torch.randn(2, 4, 3), torch.rand(2, 4) < 0.5
        memory.update(values, present)
        for layer in range(2):
            some = bool(present[layer].any())
            for k in range(4):
                here = bool(present[layer, k])
                counts[layer][k] += here if per_class else some
                decay = 0.9999 * (1 - math.exp(-counts[layer][k] / 2000))
                if here:
                    means[layer][k] = [
                        decay * m + (1 - decay) * float(v)
                        for m, v in zip(means[layer][k], values[layer, k], strict=True)
                    ]
    torch.testing.assert_close(memory.means, torch.tensor(means))
    assert memory.updates.tolist() == counts


def test_rows_that_are_not_finite_are_found() -> None:
    rows = torch.tensor([[1.0, 2.0], [math.nan, 0.0], [0.0, math.inf]])
    assert finite_rows(rows).tolist() == [True, False, False]
