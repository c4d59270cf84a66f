"""Reading columns: equal to the slow way, at any order, after spawn, in bounded memory."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import resource
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.store import Column, open_column, open_writer
from cckt.cache_builder.store.places import mapped
from cckt.cache_builder.store.places.fetched import FetchedRows
from cckt.cache_builder.store.reader import _Guard
from tests.cache_builder.column_samples import INDEX, crops_spec, make, row_of


@pytest.fixture(scope="module")
def column(tmp_path_factory) -> Column:
    """100 rows in chunks of 16: 768 bytes a chunk, so that chunks do not fill pages."""
    folder = tmp_path_factory.mktemp("column")
    make(folder, crops_spec())
    return open_column(folder, "crops")


@pytest.fixture(scope="module")
def paged(tmp_path_factory) -> Column:
    """300 rows in chunks of 128 rows of 64 values: every chunk fills whole pages."""
    folder = tmp_path_factory.mktemp("paged")
    make(folder, crops_spec(300, 128, 64), batch=64)
    return open_column(folder, "crops")


def fetched(column: Column, array: str) -> FetchedRows:
    """Read an array of a column as from a place that cannot be mapped."""
    guard = _Guard(array, column._files, column.manifest, None, prove=True)
    return FetchedRows(column._files, column.manifest.spec, array, guard)


def whole(column: Column) -> tuple[np.ndarray, np.ndarray]:
    """Values and flags as zarr reads them."""
    group = zarr.open_group(column._files.place, mode="r")
    return group["values"][:], group["valid"][:].astype(bool)


def test_reading_no_rows_gives_no_rows(column):
    assert column.take([]).shape == (0, 24)
    assert column.slice(100, 100).shape == (0, 24)


@settings(deadline=None, max_examples=60)
@given(rows=st.lists(st.integers(0, 99), max_size=40), kind=st.sampled_from(["mapped", "fetched"]))
def test_take_equals_zarr(column, rows, kind):
    values, valid = whole(column)
    if kind == "fetched":
        column = Column(column._files, column.manifest)
        spec = column.manifest.spec
        column._arrays = {array: fetched(column, array) for array in spec.arrays}
    assert np.array_equal(column.take(rows), values[rows])
    assert np.array_equal(column.valid(rows), valid[rows])


@settings(deadline=None, max_examples=40)
@given(ends=st.tuples(st.integers(0, 300), st.integers(0, 300)))
def test_slices_equal_zarr_where_chunks_fill_pages(paged, ends):
    lo, hi = sorted(ends)
    assert np.array_equal(paged.slice(lo, hi), whole(paged)[0][lo:hi])


def test_both_layouts_read_everything(column, paged):
    for each in (column, paged):
        fresh = pickle.loads(pickle.dumps(each))  # noqa: S301 -- our own, as a worker gets it
        values, valid = whole(each)
        assert np.array_equal(fresh.take(np.arange(each.rows)[::-1]), values[::-1])
        assert np.array_equal(fresh.all(), values)
        assert np.array_equal(fresh.valid_all(), valid)
        assert (len(fresh), fresh.width, fresh.dtype) == (each.rows, each.width, np.dtype("<f2"))


@pytest.mark.parametrize("rows", [[100], [-1], [0, 5, 2**40]])
def test_rows_outside_are_an_index_error(column, rows):
    with pytest.raises(IndexError, match="column crops with 100 rows"):
        column.take(rows)
    with pytest.raises(IndexError):
        column.valid(rows)


def test_invalid_ranges_are_an_index_error(column):
    with pytest.raises(IndexError, match="expected \\(n,\\)"):
        column.take([[1, 2]])
    for lo, hi in [(-1, 3), (5, 4), (0, 101)]:
        with pytest.raises(IndexError):
            column.slice(lo, hi)


def test_a_copy_can_be_changed_without_changing_the_column(column):
    taken = column.take([1, 2])
    taken[:] = 0
    assert column.take([1, 2]).any()
    with pytest.raises((ValueError, TypeError)):
        column._array("values")._cube[0, 0, 0] = 1


def test_a_column_without_flags_is_all_valid(tmp_path):
    make(tmp_path, crops_spec(5, 2, has_valid=False, name="text", table="concepts"))
    column = open_column(tmp_path, "text")
    assert column.valid([0, 4]).tolist() == [True, True]
    assert column.valid_all().tolist() == [True] * 5


def _take_in_child(column: Column, rows: list[int], answers) -> None:
    answers.put((column.take(rows), "zarr" in sys.modules))


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_a_worker_maps_the_files_again_without_zarr(column, method):
    context = multiprocessing.get_context(method)
    answers = context.Queue()
    column.take([0])  # a map of the parent's is open when the child starts
    child = context.Process(target=_take_in_child, args=(column, [99, 0, 50], answers))
    child.start()
    rows, _ = answers.get(timeout=120)
    child.join()
    assert np.array_equal(rows, column.take([99, 0, 50]))


def test_a_pickle_is_small_and_holds_no_rows(paged):
    paged.all()
    assert len(pickle.dumps(paged)) < 4000


def test_a_thousand_chunks_need_no_open_files(tmp_path):
    spec = crops_spec(2000, 1, 8, has_valid=False, unit=False)
    writer = open_writer(tmp_path, spec)
    values = np.stack([row_of(spec, row) for row in range(2000)]).astype(np.float16)
    for row in range(2000):
        writer._files.put(f"values/c.{row}.0", values[row].data)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = len(os.listdir("/proc/self/fd")) + 60  # earlier tests of the process may hold some
    resource.setrlimit(resource.RLIMIT_NOFILE, (few, hard))
    try:
        column = Column(writer._files, writer._manifest)
        assert np.array_equal(column.all(), values)
        del column
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.skipif(sys.platform != "linux", reason="resident pages are counted in /proc")
def test_resident_memory_does_not_grow_with_the_column(tmp_path, monkeypatch):
    spec = crops_spec(32 * 512, 512, 512, has_valid=False, unit=False)  # 16 MB
    writer = open_writer(tmp_path, spec)
    for chunk in range(32):
        writer._files.put(f"values/c.{chunk}.0", np.full((512, 512), chunk, np.float16).data)

    def resident() -> int:
        status = Path("/proc/self/status").read_text()
        return int(status.split("RssFile:")[1].split()[0]) * 1024

    def growth(bound: int | None = None) -> int:
        column = pickle.loads(pickle.dumps(Column(writer._files, writer._manifest, bound)))  # noqa: S301 -- our own
        before = resident()
        for start in range(0, spec.rows, 256):
            column.take(np.arange(start, start + 256))
        return resident() - before

    assert mapped.resident_bound() >= mapped.RESIDENT_BYTES
    assert growth() > 12 << 20  # the whole column, when nothing is given back
    assert growth(1 << 20) < 4 << 20
    monkeypatch.setattr(mapped, "RESIDENT_BYTES", 1 << 20)
    monkeypatch.setattr(mapped, "RESIDENT_SHARE", 1 << 40)
    assert growth() < 4 << 20


def test_maps_go_with_the_last_view(tmp_path):
    make(tmp_path, crops_spec())

    def maps() -> int:
        return Path("/proc/self/maps").read_text().count(str(tmp_path))

    column = open_column(tmp_path, "crops")
    column.all()
    assert maps() == 7
    del column
    assert maps() == 0


@pytest.mark.parametrize("damage", ["short", "gone"])
@pytest.mark.parametrize("reader", ["mapped", "fetched"])
def test_a_damaged_chunk_is_a_user_error_not_a_crash(tmp_path, damage, reader):
    make(tmp_path, crops_spec())
    column = open_column(tmp_path, "crops")
    if reader == "fetched":
        column._arrays["values"] = fetched(column, "values")
    file = tmp_path / "crops/values/c.2.0"
    file.write_bytes(b"12345678") if damage == "short" else file.unlink()
    assert column.take([0, 99]).any()
    with pytest.raises(UserError, match=r"values/c\.2\.0 .*expected 768( bytes)?, run `cckt cache verify"):
        column.take([0, 35])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[5] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("reader", ["mapped", "fetched"])
def test_a_changed_bit_is_refused_by_who_proves_what_is_read(tmp_path, reader):
    make(tmp_path, crops_spec())
    flip(tmp_path / "crops/values/c.2.0")
    assert open_column(tmp_path, "crops").take([35]).any(), "training reads without a proof"
    column = pickle.loads(pickle.dumps(open_column(tmp_path, "crops", prove=True)))  # noqa: S301 -- our own
    if reader == "fetched":
        column._arrays["values"] = fetched(column, "values")
    assert column.take([0, 99]).any()
    for _ in range(2):
        with pytest.raises(UserError, match=r"values/c\.2\.0 is damaged.* `cckt cache verify"):
            column.take([0, 35])


@pytest.mark.parametrize("prove", [False, True])
@pytest.mark.parametrize("sent", [False, True])
@pytest.mark.parametrize("other", ["width", "chunks", "rows", "recipe", "nothing"])
def test_a_column_in_the_place_of_the_one_that_was_opened_is_refused(tmp_path, sent, other, prove):
    if other == "recipe" and prove:
        pytest.skip("the rows are the same, and proven to be")
    make(tmp_path / "a", crops_spec())
    width, chunk_rows, rows = {"width": (12, 16, 100), "chunks": (24, 8, 100), "rows": (24, 16, 30)}.get(
        other, (24, 16, 100)
    )
    make(tmp_path / "b", replace(crops_spec(rows, chunk_rows, width), recipe={"teacher": "another"}))
    column = open_column(tmp_path / "a", "crops", prove=prove)
    first = column.take([0])
    if sent:  # to a worker, which maps every file anew
        column = pickle.loads(pickle.dumps(column))  # noqa: S301 -- our own
    os.rename(tmp_path / "a/crops", tmp_path / "old")
    if other != "nothing":  # the moment between two renames
        os.rename(tmp_path / "b/crops", tmp_path / "a/crops")
    if not sent:
        assert np.array_equal(column.take([0]), first), "what was mapped stays"
    with pytest.raises(
        UserError, match=r"a/crops was replaced while it was read.*run the same command again"
    ):
        column.take([99])
    if other == "recipe":  # what is fetched is proven to be the same
        return
    for array in ("values", "valid"):
        column._arrays[array] = fetched(column, array)
    with pytest.raises(UserError, match=r"a/crops was replaced while it was read"):
        column.take([98])


def test_a_document_that_was_written_again_with_the_same_content_is_the_same_column(tmp_path):
    make(tmp_path, crops_spec())
    column = open_column(tmp_path, "crops")
    os.utime(tmp_path / "crops/zarr.json", (1, 1))
    assert column.take([99]).any()


def test_refusals_name_both_digests_and_the_command(tmp_path):
    make(tmp_path, crops_spec())
    assert open_column(tmp_path, "crops", index_digest=INDEX, recipe_digest=crops_spec().recipe_digest)
    expected_text = (
        r"another index: found sha256:index, expected sha256:x; .*`cckt cache crops .* tiny/one --overwrite`"
    )
    with pytest.raises(UserError, match=expected_text):
        open_column(tmp_path, "crops", index_digest="sha256:x")
    with pytest.raises(
        UserError, match=f"another recipe: found {crops_spec().recipe_digest}, expected sha256:y"
    ):
        open_column(tmp_path, "crops", recipe_digest="sha256:y")
    with pytest.raises(UserError, match=r"no column priors/mllm .*`cckt cache priors .* --mllm`"):
        open_column(tmp_path, "priors/mllm")


def test_an_edited_manifest_is_refused(tmp_path):
    make(tmp_path, crops_spec())
    manifest = tmp_path / "crops/zarr.json"
    manifest.write_text(manifest.read_text().replace("sha256:index", "sha256:jndex"))
    with pytest.raises(UserError, match="was edited: its fields have digest sha256:"):
        open_column(tmp_path, "crops")


def test_another_schema_is_refused(tmp_path):
    make(tmp_path, crops_spec())
    manifest = tmp_path / "crops/zarr.json"
    manifest.write_text(manifest.read_text().replace("cckt.column/1", "cckt.column/9"))
    with pytest.raises(UserError, match=r"schema 'cckt\.column/9': expected 'cckt\.column/1'"):
        open_column(tmp_path, "crops")
