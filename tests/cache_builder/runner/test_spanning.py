"""Batches of independent rows span chunks: when they are mapped, what a kill loses, and the same bytes."""

from __future__ import annotations

import multiprocessing
import threading
import time

import numpy as np
import pytest

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.runner import ExactPart, Item, Target, chunk_assembler, run_chunks, run_targets
from cckt.cache_builder.store import open_writer
from tests.cache_builder.column_samples import crops_spec, is_bad, make, row_of, tree

SPEC = crops_spec(120, 8)
"""Fifteen chunks of at most seven rows to map."""


def spanning(data, spec=SPEC, **options):
    return make(data, spec, **{"batch": 32, "independent": True, "workers": 2, **options})


def copying(data, spec, *, batch=32, held=None, **options):
    """Make a column in which only the first row of a chunk is mapped; note the claims at each batch."""
    batches = []

    def read(lo, hi):
        return [
            Item(row, row) if row % spec.chunk_rows == 0 else Item(row, value=row_of(spec, row))
            for row in range(lo, hi)
        ]

    def embed(rows):
        batches.append(list(rows))
        if held is not None:
            held.append(len(list(data.glob("crops/ledger/claim-*"))))
        return np.stack([row_of(spec, row) for row in rows])

    options = {"workers": 0, **options}
    report = run_chunks(open_writer(data, spec), read, embed, batch=batch, independent=True, **options)
    return report, batches


@pytest.mark.parametrize("part", [None, ExactPart((0, 1))])
def test_batches_are_full_but_the_last(tmp_path, part):
    batches: list[list[int]] = []
    spanning(tmp_path / "one", batches=batches, part=part)
    valid = [row for row in range(120) if not is_bad(SPEC, row)]
    assert batches == [valid[at : at + 32] for at in range(0, len(valid), 32)]
    make(tmp_path / "other", SPEC)
    assert tree(tmp_path / "one") == tree(tmp_path / "other")


def test_an_empty_column_and_one_without_rows_to_map(tmp_path):
    assert spanning(tmp_path / "empty", crops_spec(0)).manifest is not None
    report = run_chunks(
        open_writer(tmp_path / "copied", SPEC),
        lambda lo, hi: [Item(row, value=row_of(SPEC, row)) for row in range(lo, hi)],
        np.stack,
        independent=True,
    )
    assert (report.made, report.copied, report.manifest is not None) == (15, 120, True)


def test_the_chunks_that_wait_for_a_batch_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(chunk_assembler, "MOST_OPEN", 4)
    held: list[int] = []
    report, batches = copying(tmp_path / "one", SPEC, held=held)
    assert [len(batch) for batch in batches] == [5, 5, 5]
    assert max(held) <= 5 + 3, "those that wait, two for the writer, and one that it writes"
    assert (report.copied, report.rows) == (105, 120)


def test_a_chunk_that_is_read_does_not_wait_long(tmp_path, monkeypatch):
    monkeypatch.setattr(chunk_assembler, "MOST_WAIT", 0.0)
    _, batches = copying(tmp_path / "one", SPEC)
    assert all(len(batch) <= 2 for batch in batches)
    monkeypatch.undo()
    copying(tmp_path / "other", SPEC)
    assert tree(tmp_path / "one") == tree(tmp_path / "other")


def test_a_maker_that_waits_for_others_has_written_what_it_holds(tmp_path):
    others = open_writer(tmp_path / "data", SPEC).claims(SPEC.n_chunks)
    with others:
        assert others.take(14)
        maker = threading.Thread(target=spanning, args=(tmp_path / "data",), kwargs={"delay": 0.01})
        maker.start()
        deadline = time.monotonic() + 60
        while open_writer(tmp_path / "data", SPEC).missing() not in ([14], []):
            assert time.monotonic() < deadline, "rows wait although no further chunk can be claimed"
            time.sleep(0.01)
        others.release(14)
        maker.join()
    make(tmp_path / "other", SPEC)
    assert tree(tmp_path / "data") == tree(tmp_path / "other")


def test_makers_in_threads_and_a_killed_process_give_the_same_bytes(tmp_path):
    make(tmp_path / "whole", SPEC)
    dead = multiprocessing.get_context("fork").Process(
        target=spanning, args=(tmp_path / "data",), kwargs={"delay": 30.0, "workers": 0}
    )
    dead.start()
    while len(list((tmp_path / "data").glob("crops/ledger/claim-*"))) < 3:
        time.sleep(0.01)
    dead.kill()
    dead.join()
    makers = [
        threading.Thread(
            target=spanning, args=(tmp_path / "data",), kwargs={"part": (i, 3), "delay": 0.01 * (i + 1)}
        )
        for i in range(3)
    ]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join()
    assert tree(tmp_path / "data") == tree(tmp_path / "whole")


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_of_a_reader_keeps_every_chunk_that_was_read(tmp_path, workers):
    def read(lo, hi):
        if lo >= 40:
            raise UserError("photo 5 is broken")
        return [Item(row, row) for row in range(lo, hi)]

    writer = open_writer(tmp_path, SPEC)
    with pytest.raises(UserError, match="photo 5 is broken"):
        run_chunks(
            writer,
            read,
            lambda rows: np.stack([row_of(SPEC, row) for row in rows]),
            batch=64,
            independent=True,
            workers=workers,
        )
    assert writer.missing() == list(range(5, 15))


def test_columns_of_one_pass_span_chunks_each_with_its_own_batch(tmp_path):
    specs = [SPEC, crops_spec(24, 8, name="images", table="images")]
    batches: list[list[int]] = [[], []]

    def target(number, batch):
        def embed(rows):
            batches[number].append(len(rows))
            return np.stack([row_of(specs[number], row) for row in rows])

        return Target(open_writer(tmp_path / "pass", specs[number]), embed, batch, independent=True)

    def read(job):
        for number, (lo, hi) in enumerate(job):
            for row in range(lo, hi):
                bad = is_bad(specs[number], row)
                yield number, Item(row, None, f"bad photo {row // 10}") if bad else Item(row, row)

    jobs = [((5 * i, 5 * i + 5), (i, i + 1)) for i in range(24)]
    run_targets([target(0, 32), target(1, 16)], jobs, read)
    assert batches == [[32, 32, 32, 7], [16, 5]]
    for spec in specs:
        make(tmp_path / "single", spec)
    assert tree(tmp_path / "pass") == tree(tmp_path / "single")
