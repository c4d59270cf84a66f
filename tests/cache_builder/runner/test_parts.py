"""Several processes on one column, and several columns in one pass."""

from __future__ import annotations

import multiprocessing

import numpy as np
import pytest

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.runner import ExactPart, Item, Target, part_of, run_chunks, run_targets
from cckt.cache_builder.store import open_column, open_writer
from tests.cache_builder.column_samples import Recorder, crops_spec, make, row_of, tree


@pytest.mark.parametrize(
    ("text", "environment", "part"),
    [
        (None, {}, (0, 1)),
        ("2/5", {}, (2, 5)),
        (None, {"RANK": "3", "WORLD_SIZE": "4"}, (3, 4)),
        ("1/2", {"RANK": "3", "WORLD_SIZE": "4"}, (7, 8)),
        (None, {"RANK": "3"}, (0, 1)),
    ],
)
def test_part_of_reads_option_and_environment(text, environment, part):
    assert part_of(text, environment) == part


@pytest.mark.parametrize("text", ["", "1", "3/3", "-1/2", "a/b", "1/0", "1/2/3"])
def test_an_invalid_part_is_refused(text):
    with pytest.raises(UserError, match=r"expected I/N with I from 0 to N-1, as in --part 0/3"):
        part_of(text, {})


def test_one_rank_two_ranks_and_three_parts_give_the_same_bytes(tmp_path):
    spec = crops_spec()
    make(tmp_path / "one", spec)
    for i in (2, 0, 1):
        report = make(tmp_path / "three", spec, part=ExactPart((i, 3)))
    assert report.manifest is not None
    # Two ranks, one of which dies at once; then three of four ranks; then one process.
    make(tmp_path / "changing", spec, part=ExactPart((1, 2)))
    for i in (3, 0, 2):
        make(tmp_path / "changing", spec, part=ExactPart((i, 4)))
    make(tmp_path / "changing", spec)
    context = multiprocessing.get_context("fork")
    ranks = [
        context.Process(target=make, args=(tmp_path / "two", spec), kwargs={"part": (i, 2), "delay": 0.01})
        for i in range(2)
    ]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
        assert rank.exitcode == 0
    whole = tree(tmp_path / "one")
    assert tree(tmp_path / "two") == tree(tmp_path / "three") == tree(tmp_path / "changing") == whole


def test_ranks_of_torchrun_make_their_share_and_then_help(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "3")
    rows_read: list[int] = []
    report = make(tmp_path, crops_spec(), rows_read=rows_read)
    assert [row // 16 for row in rows_read if row % 16 == 0][:2] == [1, 4]  # its own first
    assert (report.made, report.manifest is not None) == (7, True)


def test_an_exact_part_makes_only_its_share(tmp_path):
    assert make(tmp_path, crops_spec(), part=ExactPart((1, 3))).made == 2
    assert make(tmp_path, crops_spec(), part=(0, 3)).made == 5


def targets_of(folder, seen):
    """Images in chunks of 4, and three boxes a photo in chunks of 16."""
    images = crops_spec(20, 4, name="images", table="images")
    crops = crops_spec(60, 16)

    def mapper(spec):
        def embed(rows):
            seen.append((spec.name, tuple(rows)))
            return np.stack([row_of(spec, row) for row in rows])

        return embed

    return [Target(open_writer(folder, spec), mapper(spec), 5) for spec in (images, crops)]


JOBS = [((photo, photo + 1), (3 * photo, 3 * photo + 3)) for photo in range(20)]


def test_one_pass_makes_several_columns_with_the_bytes_of_single_runs(tmp_path):
    decoded: list[tuple] = []

    def read(job):
        decoded.append(job)
        for number, (lo, hi) in enumerate(job):
            for row in range(lo, hi):
                yield number, Item(row, row)

    together: list[tuple] = []
    seen = Recorder()
    reports = run_targets(targets_of(tmp_path / "together", together), JOBS, read, workers=0, progress=seen)
    assert decoded == JOBS
    assert [report.made for report in reports] == [5, 4]
    assert (seen.done, seen.calls[0]) == (80, ("start", "images, crops", 80, "rows"))
    alone: list[tuple] = []
    for target in targets_of(tmp_path / "alone", alone):
        run_chunks(
            target.writer,
            lambda lo, hi: [Item(row, row) for row in range(lo, hi)],
            target.map,
            batch=5,
            workers=0,
        )
    assert tree(tmp_path / "together") == tree(tmp_path / "alone")
    assert sorted(together) == sorted(alone)

    for i in range(3):
        run_targets(targets_of(tmp_path / "parts", []), JOBS, read, part=ExactPart((i, 3)))
    assert tree(tmp_path / "parts") == tree(tmp_path / "alone")


def test_one_pass_reads_only_photos_of_missing_rows(tmp_path):
    decoded: list[tuple] = []

    def read(job):
        decoded.append(job)
        return [(number, Item(row, row)) for number, (lo, hi) in enumerate(job) for row in range(lo, hi)]

    targets = targets_of(tmp_path, [])
    values = np.stack([row_of(targets[0].writer.spec, row) for row in range(20)])
    for chunk in (0, 1, 3, 4):
        targets[0].writer.write(chunk, values[chunk * 4 : chunk * 4 + 4], np.ones(4, bool))
    crops = targets[1].writer
    for chunk in range(3):
        rows = range(*crops.bounds(chunk))
        crops.write(chunk, np.stack([row_of(crops.spec, row) for row in rows]), np.ones(16, bool))
    run_targets(targets, JOBS, read, workers=0)
    assert decoded == [
        *[((photo, photo + 1), (3 * photo, 3 * photo)) for photo in range(8, 12)],
        *[((photo, photo), (3 * photo, 3 * photo + 3)) for photo in range(16, 20)],
    ]
    assert open_column(tmp_path, "images").rows == 20
    assert open_column(tmp_path, "crops").rows == 60


def test_jobs_that_do_not_cover_the_table_fail_an_assertion(tmp_path):
    def read(job):
        return [(number, Item(row, row)) for number, (lo, hi) in enumerate(job) for row in range(lo, hi)]

    with pytest.raises(AssertionError, match="did not cover chunks"):
        run_targets(targets_of(tmp_path, []), JOBS[:-1], read, workers=0)
