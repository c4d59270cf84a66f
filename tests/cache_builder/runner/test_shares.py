"""Makers of one column share its chunks: slow, dead and late ones; units of several columns."""

from __future__ import annotations

import multiprocessing
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cckt.cache_builder.runner import ExactPart
from cckt.cache_builder.runner.engines import local
from cckt.cache_builder.runner.plan import ChunkUnits, PhotoUnits, Plan, Target
from cckt.cache_builder.store import Claims, open_writer
from tests.cache_builder.column_samples import Recorder, crops_spec, make, tree

SPEC = crops_spec(240, 8)
"""Thirty chunks of two batches."""


def in_process(data, **options):
    process = multiprocessing.get_context("fork").Process(
        target=make, args=(data, SPEC), kwargs={"batch": 8, **options}
    )
    process.start()
    return process


def test_a_slow_maker_does_not_hold_the_column_up(tmp_path):
    make(tmp_path / "whole", SPEC)
    slow = in_process(tmp_path / "data", delay=20.0, part=(1, 2))
    while not list((tmp_path / "data/crops").glob("ledger/claim-*")):
        time.sleep(0.01)
    began = time.monotonic()
    report = make(tmp_path / "data", SPEC, part=(0, 2), delay=0.02)
    assert time.monotonic() - began < 15
    slow.kill()
    slow.join()
    assert report.manifest is not None
    assert report.made == 30
    assert report.again >= 1
    assert tree(tmp_path / "data") == tree(tmp_path / "whole")


def test_a_killed_maker_is_replaced_by_one_that_waits(tmp_path):
    make(tmp_path / "whole", SPEC)
    other = in_process(tmp_path / "data", delay=30.0)
    while not list((tmp_path / "data/crops").glob("ledger/claim-*")):
        time.sleep(0.01)
    threading.Timer(0.5, other.kill).start()
    report = make(tmp_path / "data", SPEC)
    other.join()
    assert report.manifest is not None
    assert tree(tmp_path / "data") == tree(tmp_path / "whole")


def test_makers_wait_for_chunks_in_other_hands_and_all_get_the_manifest(tmp_path):
    reports = []

    def one(part):
        reports.append(make(tmp_path, SPEC, part=part, delay=0.01))

    threads = [threading.Thread(target=one, args=((i, 3),)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({report.manifest.digest for report in reports}) == 1
    assert sum(report.made for report in reports) <= 33  # second copies of late chunks only


def test_progress_counts_what_others_make(tmp_path, monkeypatch):
    monkeypatch.setattr(local, "REFRESH_SECONDS", 0.0)
    seen = Recorder()
    report = None

    def one():
        nonlocal report
        report = make(tmp_path, SPEC, part=(0, 2), delay=0.01, progress=seen)

    thread = threading.Thread(target=one)
    thread.start()
    make(tmp_path, SPEC, part=(1, 2), delay=0.01)
    thread.join()
    assert report.manifest is not None
    assert seen.calls[0] == ("start", "crops", 240, "rows")
    assert seen.done >= 232


def plan_of(folder, part):
    writer = open_writer(folder, crops_spec())
    units = ChunkUnits(writer, lambda lo, hi: [(lo, hi)])
    return Plan([Target(writer, np.stack)], units, lambda job: [], 0, False, part, Recorder(), "rows")


def source_of(folder, part):
    plan = plan_of(folder, part)
    claims = Claims(open_writer(folder, crops_spec())._files, plan.units.count)
    return local.ClaimedUnits(plan, claims, plan.missing())


def test_each_maker_begins_with_its_share_and_goes_on_with_others(tmp_path):
    first = source_of(tmp_path, (0, 2))
    assert [first.next() for _ in range(4)] == [0, 2, 4, 6]
    second = source_of(tmp_path, (1, 2))
    # Makers of this test are abandoned at once (no `with`), so that the second takes over from the first.
    assert second.next() == 1
    assert first.next() in (3, 5)


def test_a_chunk_that_was_made_meanwhile_is_not_made_again(tmp_path):
    source = source_of(tmp_path, (0, 1))
    assert source.next() == 0
    make(tmp_path, crops_spec(), part=ExactPart((1, 2)))  # 1, 3 and 5
    assert [source.next() for _ in range(4)] == [2, 4, 6, None]


def test_a_late_unit_is_taken_by_one_idle_maker(tmp_path):
    slow = Claims(open_writer(tmp_path, crops_spec())._files, 7)
    with slow:
        for unit in range(7):
            assert slow.take(unit)
        idle = source_of(tmp_path, (0, 1))
        assert idle.next() is None
        idle._done, idle._began = 100, time.monotonic() - 0.1  # a unit takes a millisecond here
        assert idle.wait()
        assert idle.next() in range(7)
        assert idle.again == 1


@settings(max_examples=60, deadline=None)
@given(
    boxes=st.lists(st.integers(0, 9), min_size=1, max_size=60),
    rows=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    taken=st.data(),
)
def test_units_of_photos_cover_every_chunk_once(boxes, rows, taken):
    """Any division into walks gives each row of a unit once, in order, and no row of another unit."""
    offsets = [0, *np.cumsum(boxes).tolist()]
    jobs = [((offsets[i], offsets[i + 1]), (i, i + 1)) for i in range(len(boxes))]
    totals = (offsets[-1], len(boxes))

    def writer(total, size):
        count = -(-total // size)
        return SimpleNamespace(
            spec=SimpleNamespace(chunk_rows=size),
            n_chunks=count,
            bounds=lambda chunk: (chunk * size, min(total, (chunk + 1) * size)),
        )

    writers = [writer(total, size) for total, size in zip(totals, rows, strict=True)]
    units = PhotoUnits(writers, jobs)
    chunks = [sorted(c for u in range(units.count) for c in units.chunks(u)[t]) for t in range(2)]
    assert chunks == [list(range(one.n_chunks)) for one in writers]
    wanted = [set(found) for found in chunks]
    left = set(range(units.count))
    seen = [[], []]
    while left:
        unit = taken.draw(st.sampled_from(sorted(left)))
        left.discard(unit)
        walked = {unit}

        def take(other, walked=walked):
            if other not in left or not taken.draw(st.booleans()):
                return False
            left.discard(other)
            walked.add(other)
            return True

        found = [[], []]
        for job in units.jobs(unit, wanted, take):
            for target, (lo, hi) in enumerate(job):
                found[target] += range(lo, hi)
        for target, one in enumerate(writers):
            own = {c for u in walked for c in units.chunks(u)[target]}
            assert found[target] == [row for row in range(totals[target]) if row // rows[target] in own]
            seen[target] += found[target]
            assert one is writers[target]
    assert [sorted(rows_seen) for rows_seen in seen] == [list(range(total)) for total in totals]


@pytest.mark.parametrize("count", [0, 1, 5])
def test_photo_units_of_few_photos(count):
    writers = [
        SimpleNamespace(
            spec=SimpleNamespace(chunk_rows=2),
            n_chunks=-(-count // 2),
            bounds=lambda chunk: (chunk * 2, min(count, chunk * 2 + 2)),
        )
    ]
    units = PhotoUnits(writers, [((i, i + 1),) for i in range(count)])
    assert units.count == -(-count // 2)
