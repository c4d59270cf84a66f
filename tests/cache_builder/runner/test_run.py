"""The run of a column: what is read, the batches that are mapped, readers, errors and signals."""

from __future__ import annotations

import os
import signal
import threading

import numpy as np
import pytest

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.runner import Interrupted, Item, run_chunks
from cckt.cache_builder.store import open_column, open_writer
from tests.cache_builder.column_samples import Recorder, crops_spec, is_bad, make, row_of, tree


def test_an_empty_column_is_finished_without_work(tmp_path):
    recorder = Recorder()
    report = make(tmp_path, crops_spec(0), progress=recorder)
    assert (report.made, report.rows, report.manifest is not None) == (0, 0, True)
    assert recorder.calls == [("start", "crops", 0, "rows"), ("finish",)]


def test_batches_are_the_valid_rows_of_a_chunk_cut_every_batch(tmp_path):
    spec = crops_spec(30, 12)
    batches: list[list[int]] = []
    make(tmp_path, spec, batches=batches)
    expected = []
    for lo in range(0, 30, 12):
        valid = [row for row in range(lo, min(lo + 12, 30)) if not is_bad(spec, row)]
        expected += [valid[at : at + 5] for at in range(0, len(valid), 5)]
    assert batches == expected


@pytest.mark.parametrize(
    "options", [{"workers": 1}, {"workers": 3}, {"spans": None}, {"spans": lambda lo, hi: [(lo, hi)]}]
)
def test_neither_readers_nor_spans_change_batches_or_bytes(tmp_path, options):
    one: list[list[int]] = []
    other: list[list[int]] = []
    make(tmp_path / "one", crops_spec(), batches=one)
    make(tmp_path / "other", crops_spec(), batches=other, **options)
    assert one == other
    assert tree(tmp_path / "one") == tree(tmp_path / "other")


def test_the_report_counts_and_times(tmp_path):
    recorder = Recorder()
    report = make(tmp_path, crops_spec(), progress=recorder, workers=2, delay=0.002)
    assert (report.made, report.skipped, report.rows, report.invalid) == (7, 0, 100, 14)
    assert report.notes == {row: f"bad photo {row // 10}" for row in range(3, 100, 7)}
    assert recorder.done == 100
    assert 0 < report.map_seconds < report.seconds
    assert report.write_seconds > 0
    assert report.manifest.digest == open_column(tmp_path, "crops").manifest.digest


def read_numbers(lo, hi):
    """Rows as readers in processes give them: found by name."""
    return [Item(row, (row, os.getpid())) for row in range(lo, hi)]


def die(lo, hi):
    os.kill(os.getpid(), signal.SIGKILL)


def test_readers_in_processes(tmp_path):
    spec = crops_spec(40, 20, has_valid=False)
    seen = set()

    def embed(items):
        seen.update(process for _, process in items)
        return np.stack([row_of(spec, row) for row, _ in items])

    run_chunks(open_writer(tmp_path, spec), read_numbers, embed, workers=1, processes=True)
    assert os.getpid() not in seen
    assert np.array_equal(open_column(tmp_path, "crops").take([39])[0], row_of(spec, 39).astype(np.float16))


def test_a_dead_reading_process_is_reported(tmp_path):
    with pytest.raises(UserError, match="fewer --workers"):
        run_chunks(open_writer(tmp_path, crops_spec()), die, np.stack, workers=1, processes=True)


def test_a_mapper_may_return_a_function(tmp_path):
    spec = crops_spec(40, 16)
    order: list[str] = []

    def embed(rows):
        order.append(f"launch {rows[0]}")

        def wait():
            order.append(f"land {rows[0]}")
            return np.stack([row_of(spec, row) for row in rows])

        return wait

    def read(lo, hi):
        return [Item(row, row) for row in range(lo, hi)]

    run_chunks(open_writer(tmp_path, spec), read, embed, batch=8, workers=0)
    assert order[:4] == ["launch 0", "launch 8", "land 0", "launch 16"]
    assert order[-1] == "land 32"
    assert np.array_equal(open_column(tmp_path, "crops").take([39])[0], row_of(spec, 39).astype(np.float16))


def test_rows_that_are_not_read_are_invalid(tmp_path):
    spec = crops_spec(40, 16)
    run_chunks(
        open_writer(tmp_path, spec),
        lambda lo, hi: [Item(row, row) for row in reversed(range(lo, hi)) if 5 <= row < 16],
        lambda rows: np.stack([row_of(spec, row) for row in rows]),
        workers=0,
    )
    assert np.flatnonzero(open_column(tmp_path, "crops").valid_all()).tolist() == list(range(5, 16))


def test_a_column_without_flags_needs_every_row(tmp_path):
    spec = crops_spec(10, 4, has_valid=False, name="text", table="concepts")
    writer = open_writer(tmp_path, spec)

    def read(lo, hi):
        return [Item(row, None, "no name") if row == 5 else Item(row, row) for row in range(lo, hi)]

    with pytest.raises(UserError, match=r"row 5 of column text has no value \(no name\), expected"):
        run_chunks(writer, read, lambda rows: np.stack([row_of(spec, row) for row in rows]))
    assert writer.missing() == [1, 2]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_of_reader_or_mapper_keeps_finished_chunks(tmp_path, workers):
    make(tmp_path / "whole", crops_spec())

    def read(lo, hi):
        if lo >= 64:
            raise UserError("photo 7 is broken")
        return [Item(row, row) for row in range(lo, hi)]

    def embed(rows):
        raise RuntimeError("the device is gone")

    writer = open_writer(tmp_path / "data", crops_spec())
    with pytest.raises(RuntimeError, match="device is gone"):
        run_chunks(writer, read, embed, workers=workers)
    assert len(writer.missing()) == 7
    with pytest.raises(UserError, match="photo 7 is broken"):
        run_chunks(
            writer,
            read,
            lambda rows: np.stack([row_of(writer.spec, row) for row in rows]),
            workers=workers,
            spans=lambda lo, hi: [(lo, hi)],
        )
    assert writer.missing() == [4, 5, 6]


def test_a_reader_that_gives_other_rows_fails_an_assertion(tmp_path):
    with pytest.raises(AssertionError, match="expected rows 0 to 15 from the reader, found 16 to 16"):
        run_chunks(open_writer(tmp_path, crops_spec()), lambda lo, hi: [Item(hi, 0)], np.stack, workers=0)


def test_a_mapper_of_another_width_fails_an_assertion(tmp_path):
    with pytest.raises(AssertionError, match=r"expected \(16, 24\) from the mapper, found \(16, 3\)"):
        run_chunks(
            open_writer(tmp_path, crops_spec()),
            lambda lo, hi: [Item(row, np.zeros(3)) for row in range(lo, hi)],
            np.stack,
            workers=0,
        )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_stop_with_a_message_and_the_next_run_resumes(tmp_path, number):
    before = signal.getsignal(number)
    make(tmp_path / "whole", crops_spec())

    class Signal(list):
        def append(self, rows):
            if 40 in rows:
                os.kill(os.getpid(), number)

    with pytest.raises(
        Interrupted, match=r"stopped by .* after making \d chunks of crops; every chunk on disk is complete"
    ) as caught:
        make(tmp_path / "data", crops_spec(), batches=Signal(), workers=1)
    assert "2 chunks" in str(caught.value)
    assert caught.value.number == number
    assert isinstance(caught.value, UserError)
    assert signal.getsignal(number) is before
    make(tmp_path / "data", crops_spec())
    assert tree(tmp_path / "data") == tree(tmp_path / "whole")


def test_a_run_outside_the_main_thread_handles_no_signals(tmp_path):
    thread = threading.Thread(target=make, args=(tmp_path, crops_spec()))
    thread.start()
    thread.join()
    assert open_column(tmp_path, "crops").rows == 100


def test_reading_mapping_and_writing_overlap(tmp_path, monkeypatch):
    spec = crops_spec(32, 8)
    writer = open_writer(tmp_path, spec)
    write, meeting = writer.write, threading.Barrier(3)  # one after another, the three would never meet
    met: list[str] = []

    def meet(who: str) -> None:
        if who not in met:
            met.append(who)
            meeting.wait(timeout=60)

    def write_and_meet(chunk, *rest):
        meet("writer")
        return write(chunk, *rest)

    def read(lo, hi):
        if lo == 16:
            meet("reader")
        return [Item(row, row) for row in range(lo, hi)]

    def embed(rows):
        if rows[0] == 8:
            meet("mapper")
        return np.stack([row_of(spec, row) for row in rows])

    monkeypatch.setattr(writer, "write", write_and_meet)
    run_chunks(writer, read, embed, workers=1, spans=lambda lo, hi: [(lo, hi)])
    assert sorted(met) == ["mapper", "reader", "writer"]
