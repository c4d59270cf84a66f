"""Writing columns: layout, resume, refusals, what a disk can do, several makers."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.runner import ExactPart
from cckt.cache_builder.store import ColumnSpec, column_info, list_columns, open_column, open_writer
from cckt.cache_builder.store.format.file_names import LEDGER
from cckt.cache_builder.store.format.spec import from_runs, some_runs, to_runs
from tests.cache_builder.column_samples import crops_spec, four_specs, is_bad, make, row_of, tree


def expected(spec: ColumnSpec) -> tuple[np.ndarray, np.ndarray]:
    """Values and flags of the whole column, by the slow way."""
    values = np.stack([row_of(spec, row) for row in range(spec.rows)]).astype(spec.dtype)
    valid = np.array([not is_bad(spec, row) for row in range(spec.rows)])
    values[~valid] = 0
    return values, valid


def test_an_empty_column_is_finished_at_once(tmp_path):
    report = make(tmp_path, crops_spec(0))
    column = open_column(tmp_path, "crops")
    assert report.made == 0
    assert column.all().shape == (0, 24)
    assert column.take([]).shape == (0, 24)
    assert column.valid([]).shape == (0,)
    assert zarr.open_group(tmp_path / "crops", mode="r")["values"].shape == (0, 24)


@pytest.mark.parametrize("spec", four_specs(), ids=lambda spec: spec.name)
def test_any_zarr_client_opens_a_finished_column(tmp_path, spec):
    make(tmp_path, spec)
    group = zarr.open_group(tmp_path / spec.name, mode="r")
    values, valid = expected(spec)
    assert np.array_equal(group["values"][:], values)
    assert group["values"].chunks == (spec.chunk_rows, spec.width)
    assert group["values"].compressors == ()
    if spec.has_valid:
        assert np.array_equal(group["valid"][:], valid)
    assert {name for name, _ in group.members()} == set(spec.arrays)
    manifest = group.attrs["cckt"]
    assert manifest["index_digest"] == spec.index_digest
    assert manifest["recipe"]["teacher"]["name"] == "tiny/one"
    assert manifest["finished"] is True
    assert manifest["invalid"] == int((~valid).sum())
    assert set(manifest["versions"]) >= {"numpy", "zarr", "python"}


def test_chunk_files_are_plain_rows(tmp_path):
    spec = crops_spec(20, 8)
    make(tmp_path, spec)
    raw = b"".join((tmp_path / f"crops/values/c.{chunk}.0").read_bytes() for chunk in range(3))
    rows = np.frombuffer(raw, "<f2").reshape(24, 24)
    assert np.array_equal(rows[:20], expected(spec)[0])
    assert not rows[20:].any()


def test_a_column_shorter_than_a_chunk_is_not_padded(tmp_path):
    make(tmp_path, crops_spec(3, 1024))
    assert (tmp_path / "crops/values/c.0.0").stat().st_size == 3 * 24 * 2


def test_the_manifest_holds_reasons_of_invalid_rows(tmp_path):
    make(tmp_path, crops_spec(100))
    manifest = open_column(tmp_path, "crops").manifest
    assert manifest.notes == {row: f"bad photo {row // 10}" for row in range(3, 100, 7)}
    assert manifest.invalid == 14


def test_a_finished_column_is_not_made_again(tmp_path):
    spec = crops_spec()
    make(tmp_path, spec)
    before = tree(tmp_path)
    rows_read: list[int] = []
    report = make(tmp_path, spec, rows_read=rows_read)
    assert (rows_read, report.made, report.skipped) == ([], 0, 7)
    assert report.manifest is not None
    assert tree(tmp_path) == before


def test_resume_makes_only_chunks_without_a_ledger_entry(tmp_path):
    spec = crops_spec()
    make(tmp_path / "whole", spec)
    make(tmp_path / "parts", spec, part=ExactPart((1, 3)))
    ledger = next((tmp_path / "parts/crops/ledger").glob("*.jsonl"))
    ledger.write_bytes(ledger.read_bytes()[:-5])  # the last line is torn: chunk 4 is not vouched for
    (tmp_path / "parts/crops/values/c.1.0").write_bytes(b"short")  # vouched for, but not there in full
    (tmp_path / "parts/crops/values/.tmp-killed").write_bytes(b"half a chunk")
    writer = open_writer(tmp_path / "parts", spec)
    assert writer.missing() == [0, 1, 2, 3, 4, 5, 6]
    make(tmp_path / "parts", spec)
    assert tree(tmp_path / "parts") == tree(tmp_path / "whole")


def test_writers_have_separate_ledgers_and_readers_take_the_union(tmp_path):
    spec = crops_spec()
    first, second = open_writer(tmp_path, spec), open_writer(tmp_path, spec)
    values, valid = expected(spec)
    for chunk in range(7):
        lo, hi = spec.bounds(chunk)
        (first, second)[chunk % 2].write(chunk, values[lo:hi], valid[lo:hi])
    assert len(list((tmp_path / "crops/ledger").glob("*.jsonl"))) == 2
    assert first.missing() == second.missing() == []
    assert first.finish().digest == second.finish().digest
    assert not (tmp_path / "crops/ledger").exists()


def test_a_ledger_of_another_column_is_ignored(tmp_path):
    make(tmp_path / "a", crops_spec(), part=ExactPart((0, 2)))
    make(tmp_path / "b", crops_spec(recipe={"teacher": "other"}), part=ExactPart((1, 2)))
    for ledger in (tmp_path / "b/crops/ledger").glob("*.jsonl"):
        (tmp_path / "a/crops/ledger" / ledger.name).write_bytes(ledger.read_bytes())
    assert open_writer(tmp_path / "a", crops_spec()).missing() == [1, 3, 5]


def test_if_makers_disagree_the_files_decide(tmp_path):
    spec = crops_spec(32)
    values, valid = expected(spec)
    mine, other = open_writer(tmp_path, spec), open_writer(tmp_path, spec)
    mine.write(0, values[:16], valid[:16])
    ledger = next((tmp_path / "crops/ledger").glob("*.jsonl"))
    words = ledger.read_text().splitlines()
    line = json.loads(words[1])
    line["digests"]["values"] = "sha256:other"
    (tmp_path / "crops/ledger/other.jsonl").write_text(words[0] + "\n" + json.dumps(line) + "\n")
    assert other.missing() == [1]
    other.write(1, values[16:], valid[16:])
    manifest = other.finish()
    assert "sha256:other" not in manifest.chunks["values"]


def test_a_chunk_that_another_maker_has_recorded_is_kept(tmp_path):
    spec = crops_spec(16)
    values, valid = expected(spec)
    first, second = open_writer(tmp_path, spec), open_writer(tmp_path, spec)
    first.write(0, values, valid)
    second.write(0, -values, valid)
    assert np.array_equal(first.finish() and open_column(tmp_path, "crops").all(), values)
    second.write(0, -values, valid)  # finished meanwhile
    assert np.array_equal(open_column(tmp_path, "crops").all(), values)
    assert not (tmp_path / "crops/ledger").exists()


def test_finish_refuses_missing_chunks(tmp_path):
    make(tmp_path, crops_spec(), part=ExactPart((0, 2)))
    writer = open_writer(tmp_path, crops_spec())
    expected_text = r"lacks 3 of 7 chunks \(1, 3, 5\): run `cckt cache crops .* --teacher tiny/one`"
    with pytest.raises(UserError, match=expected_text):
        writer.finish()


def test_an_unfinished_column_cannot_be_read(tmp_path):
    make(tmp_path, crops_spec(), part=ExactPart((0, 2)))
    with pytest.raises(UserError, match=r"not finished: .* run `cckt cache crops .* --teacher tiny/one`"):
        open_column(tmp_path, "crops")
    info = column_info(tmp_path, "crops")
    assert info.missing == (1, 3, 5)
    assert "not finished, lacks chunks 1, 3, 5" in info.lines()[0]


def test_non_finite_rows_become_invalid_or_are_refused(tmp_path):
    spec = crops_spec(4, 4)
    values = np.stack([row_of(spec, row) for row in range(4)])
    values[2, 5] = np.nan
    writer = open_writer(tmp_path, spec)
    assert writer.write(0, values) == 1
    assert writer.finish().notes == {2: "the values are not finite"}
    column = open_column(tmp_path, "crops")
    assert column.valid_all().tolist() == [True, True, False, True]
    assert not column.take([2]).any()
    writer = open_writer(tmp_path, crops_spec(4, 4, name="text", table="concepts", has_valid=False))
    with pytest.raises(UserError, match="Row 2 of column text is not finite in float16"):
        writer.write(0, values)


def test_rows_that_are_not_unit_are_an_assertion_error(tmp_path):
    spec = crops_spec(4, 4)
    with pytest.raises(AssertionError, match="unit column crops"):
        open_writer(tmp_path, spec).write(0, np.full((4, 24), 0.5))


def test_columns_of_a_data_set_are_listed(tmp_path):
    assert list_columns(tmp_path) == []
    assert list_columns(tmp_path / "nowhere") == []
    for spec in four_specs():
        make(tmp_path, spec)
    (tmp_path / "photos").mkdir()
    assert list_columns(tmp_path) == ["crops", "images", "priors/clip", "text"]
    with pytest.raises(UserError, match=r"no column mllm under .*: found crops, images, priors/clip, text"):
        column_info(tmp_path, "mllm")
    expected_text = "\n".join(column_info(tmp_path, "crops").lines())
    assert "60 x 24 float16 over boxes, 8 chunks of 8" in expected_text
    assert "teacher.name: tiny/one" in expected_text
    assert "1 row (3): bad photo 0" in expected_text


def test_a_recipe_is_json_and_its_digest_ignores_the_order_of_keys():
    one, other = crops_spec(recipe={"a": (1, 2), "b": 0}), crops_spec(recipe={"b": 0, "a": [1, 2]})
    assert one.recipe_digest == other.recipe_digest
    with pytest.raises(TypeError):
        crops_spec(recipe={"path": Path("x")})
    with pytest.raises(ValueError):
        crops_spec(recipe={"tau": float("nan")})


@settings(deadline=None, max_examples=30)
@given(st.sets(st.integers(0, 60)))
def test_runs_are_parsed_back(numbers):
    assert list(from_runs(to_runs(numbers))) == sorted(numbers)


def test_runs_are_short():
    assert to_runs([7, 0, 1, 2]) == "0-2,7"
    assert some_runs(range(0, 20, 2)) == "0, 2, 4, 6, 8, 10 and 4 more"


def test_a_manifest_holds_no_time_host_or_path(tmp_path):
    make(tmp_path / "one", crops_spec())
    make(tmp_path / "another", crops_spec())
    assert tree(tmp_path / "one") == tree(tmp_path / "another")
    expected_text = (tmp_path / "one/crops/zarr.json").read_text()
    assert str(tmp_path) not in expected_text
    assert os.uname().nodename not in expected_text
    assert LEDGER not in expected_text
