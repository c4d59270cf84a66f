"""Photos of a step: independent of the number of ranks and parts."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cckt.detector.data.schedule import Schedule


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 40),
    st.integers(1, 3),
    st.integers(1, 2),
    st.integers(1, 3),
    st.integers(0, 9),
    st.integers(0, 3),
)
def test_ranks_and_parts_divide_the_steps_of_one_rank(photos, size, accumulate, world, first, seed):
    batch, last = size * accumulate * world, first + 5
    whole = list(Schedule(photos, seed, batch, last_step=last))
    dealt = [
        list(Schedule(photos, seed, batch, accumulate, rank, world, first, last)) for rank in range(world)
    ]
    assert all(len(own) == 5 * accumulate for own in dealt)
    for step in range(5):
        places = [
            place
            for own in dealt
            for part in own[step * accumulate : (step + 1) * accumulate]
            for place in part
        ]
        assert sorted(places) == sorted(whole[first + step])


@pytest.mark.parametrize(("photos", "batch"), [(7, 2), (8, 4), (5, 5)])
def test_an_epoch_has_no_photo_twice(photos, batch):
    schedule = Schedule(photos, 0, batch, last_step=3 * (photos // batch))
    steps = list(schedule)
    assert len(steps) == len(schedule) == 3 * schedule.steps_per_epoch
    for epoch in range(3):
        rows = [place.image for places in steps for place in places if place.epoch == epoch]
        assert len(rows) == len(set(rows)) == photos // batch * batch
    assert schedule.order(0).tolist() != schedule.order(1).tolist()


def test_few_photos_repeat_within_the_step():
    (places,) = Schedule(3, 0, 8, last_step=1)
    assert sorted(Counter(place.image for place in places).values()) == [2, 3, 3]
    assert [place.position for place in places] == list(range(8))
