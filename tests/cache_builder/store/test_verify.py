"""Verify finds every damage, repair marks only wrong chunks, and diff reports differences."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from cckt.cache_builder.base.digests import digest_of
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.runner import ExactPart
from cckt.cache_builder.store import diff_columns, open_column, open_writer, verify_column
from cckt.cache_builder.store.agreement import agreement
from cckt.cache_builder.store.format.manifest import Manifest
from tests.cache_builder.column_samples import INDEX, crops_spec, four_specs, make, row_of, tree

SPEC = crops_spec()


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A finished column that no test touches."""
    folder = tmp_path_factory.mktemp("made")
    make(folder, SPEC)
    return folder


@pytest.fixture
def data(made, tmp_path) -> Path:
    """A copy of it to damage."""
    shutil.copytree(made, tmp_path / "data")
    return tmp_path / "data"


def kinds(data: Path, **options) -> list[tuple[str, int | None]]:
    """What verify finds, as (kind, chunk)."""
    return [(problem.kind, problem.chunk) for problem in verify_column(data, "crops", **options).problems]


def again(rows: np.ndarray) -> np.ndarray:
    """The rows as the teacher makes them again."""
    return np.stack([row_of(SPEC, row) for row in rows])


def test_a_missing_column_is_a_user_error(tmp_path):
    with pytest.raises(
        UserError, match=r"no column crops .* make it with `cckt cache all .* --teacher ViT-B-32/"
    ):
        verify_column(tmp_path, "crops")


def test_an_empty_column_has_no_problem(tmp_path):
    make(tmp_path, crops_spec(0))
    assert verify_column(tmp_path, "crops", recompute=again).ok


@pytest.mark.parametrize("spec", four_specs(), ids=lambda spec: spec.name)
def test_a_new_column_has_no_problem(tmp_path, spec):
    make(tmp_path, spec)
    report = verify_column(tmp_path, spec.name, index_digest=INDEX, table_rows=spec.rows)
    assert report.ok
    assert report.lines()[-1] == "everything is as it was made"


def flip(file: Path, position: int = 100) -> None:
    """Flip one bit."""
    data = bytearray(file.read_bytes())
    data[position] ^= 1
    file.write_bytes(data)


def swap(one: Path, other: Path) -> None:
    held = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(held)


@pytest.mark.parametrize("chunk", range(7))
def test_a_flipped_bit_in_any_chunk_is_found(data, chunk):
    flip(data / f"crops/values/c.{chunk}.0")
    assert ("digest", chunk) in kinds(data)


def test_a_flipped_bit_in_the_padding_or_a_flag_is_found(data):
    flip(data / "crops/values/c.6.0", 700)
    flip(data / "crops/valid/c.1", 4)
    found = kinds(data)
    assert ("not_zero", 6) in found
    assert ("digest", 6) in found
    assert ("digest", 1) in found


def test_truncated_lengthened_and_missing_chunks_are_found(data):
    (data / "crops/values/c.0.0").write_bytes((data / "crops/values/c.0.0").read_bytes()[:-1])
    (data / "crops/values/c.1.0").write_bytes((data / "crops/values/c.1.0").read_bytes() + b"\0")
    (data / "crops/valid/c.2").unlink()
    assert kinds(data) == [("size", 0), ("size", 1), ("missing", 2)]


def test_swapped_chunks_are_found(data):
    swap(data / "crops/values/c.4.0", data / "crops/values/c.5.0")
    found = verify_column(data, "crops").problems
    messages = [problem.message for problem in found if problem.kind == "swapped"]
    assert messages == ["values/c.4.0 holds the rows of chunk 5", "values/c.5.0 holds the rows of chunk 4"]


def test_an_edited_manifest_is_found(data):
    manifest = data / "crops/zarr.json"
    manifest.write_text(manifest.read_text().replace("tiny/one", "tiny/two"))
    assert kinds(data, repair=True) == [("manifest", None)]


def test_edited_and_missing_array_documents_are_found(data):
    document = data / "crops/values/zarr.json"
    document.write_text(document.read_text().replace("100", "101"))
    (data / "crops/valid/zarr.json").unlink()
    assert kinds(data) == [("document", None), ("document", None)]


def test_foreign_files_are_reported_and_kept(data):
    (data / "crops/values/c.7.0").write_bytes(b"")
    (data / "crops/readme.txt").write_text("mine")
    assert kinds(data, repair=True) == [("foreign", None), ("foreign", None)]
    assert (data / "crops/readme.txt").exists()


def test_every_byte_of_the_group_document_counts(made, data):
    group = data / "crops/zarr.json"
    group.write_text(group.read_text().replace('"zarr_format": 3', '"zarr_format":  3'))
    report = verify_column(data, "crops")
    assert [problem.kind for problem in report.problems] == ["group"]
    assert report.step == f"run `cckt cache verify {data} crops --repair`"
    verify_column(data, "crops", repair=True)
    assert verify_column(data, "crops").ok
    assert tree(data) == tree(made)
    group.write_text(group.read_text().replace('"zarr_format": 3', '"zarr_format": 7'))
    assert kinds(data) == [("manifest", None)]


def test_the_next_step_is_the_one_that_helps(made, data):
    def step(**options) -> str:
        return verify_column(data, "crops", **options).step

    repair, make_again = f"run `cckt cache verify {data} crops --repair`", f"run `cckt cache crops {data}"
    assert step() == ""
    assert step(table_rows=99).endswith("--overwrite`")
    (data / "crops/readme.txt").write_text("mine")
    assert step() == f"move the files that do not belong to it out of {data}/crops"
    flip(data / "crops/values/c.0.0")
    assert step() == repair
    assert step(repair=True).startswith(make_again), "expected --repair to be advised once"
    assert step().startswith(make_again)
    make(data, SPEC)
    (data / "crops/valid/zarr.json").unlink()
    assert step() == repair
    assert step(repair=True).startswith(make_again), "expected the finishing command after a repair"
    make(data, SPEC)
    (data / "crops/readme.txt").unlink()
    assert tree(data) == tree(made)
    (data / "crops/zarr.json").write_text("{")
    assert step().startswith(f"move the folder {data}/crops away and run `cckt cache crops {data}")


def test_a_damaged_line_of_a_ledger_counts_for_nothing_and_an_old_one_counts(made, tmp_path):
    make(tmp_path, SPEC, part=ExactPart((0, 2)))
    (ledger,) = (tmp_path / "crops/ledger").glob("*.jsonl")
    lines = ledger.read_bytes().splitlines(keepends=True)
    assert open_writer(tmp_path, SPEC).missing() == [1, 3, 5]
    ledger.write_bytes(b"".join([*lines[:-1], lines[-1].replace(b'"invalid":', b'"invalid":1')]))
    assert open_writer(tmp_path, SPEC).missing() == [1, 3, 5, 6]
    old = [{key: value for key, value in json.loads(line).items() if key != "check"} for line in lines]
    ledger.write_text("".join(json.dumps(line) + "\n" for line in old))
    assert open_writer(tmp_path, SPEC).missing() == [1, 3, 5]
    make(tmp_path, SPEC)
    assert tree(tmp_path) == tree(made)


def test_another_index_or_table_is_found(data):
    assert kinds(data, index_digest="sha256:other", table_rows=99) == [("index", None), ("rows", None)]


def forge(data: Path, change) -> None:
    """Make a wrong column whose digests all agree: only its rows show the fault."""
    column = data / "crops"
    manifest = Manifest.from_bytes((column / "zarr.json").read_bytes(), str(column))
    values = np.frombuffer((column / "values/c.0.0").read_bytes(), np.float16).reshape(16, 24).copy()
    change(values)
    (column / "values/c.0.0").write_bytes(values.tobytes())
    digests = (digest_of(values.tobytes()), *manifest.chunks["values"][1:])
    fields = {**manifest.__dict__, "chunks": {**manifest.chunks, "values": digests}}
    (column / "zarr.json").write_bytes(Manifest(**fields).to_bytes())


@pytest.mark.parametrize(
    ("row", "value", "kind"), [(0, np.nan, "not_finite"), (0, 0.5, "not_unit"), (3, 0.2, "not_zero")]
)
def test_impossible_rows_are_found(data, row, value, kind):
    def change(values):
        values[row] = value

    forge(data, change)
    assert (kind, 0) in kinds(data)


def test_a_wrong_number_of_invalid_rows_is_found(data):
    column = data / "crops"
    manifest = Manifest.from_bytes((column / "zarr.json").read_bytes(), str(column))
    (column / "zarr.json").write_bytes(Manifest(**{**manifest.__dict__, "invalid": 3}).to_bytes())
    assert kinds(data) == [("invalid_count", None)]


def test_a_random_sample_is_recomputed(data):
    report = verify_column(data, "crops", recompute=again, sample=20)
    assert report.ok
    assert report.agreement.rows == 20
    assert report.agreement.minimum > 0.99999
    requested = []

    def other(rows):
        requested.append(rows)
        values = again(rows)
        values[7] = -values[7]
        return values

    report = verify_column(data, "crops", recompute=other, sample=20, seed=1)
    assert [problem.kind for problem in report.problems] == ["recompute"]
    assert f"row {requested[0][7]} has cosine -1.000000" in report.problems[0].message
    assert all(row % 7 != 3 for row in requested[0])


def test_repair_makes_only_what_is_wrong_and_gives_the_same_bytes(made, data):
    flip(data / "crops/values/c.2.0")
    (data / "crops/valid/c.5").unlink()
    report = verify_column(data, "crops", repair=True)
    assert report.repaired == (2, 5)
    assert "chunks 2, 5 are marked missing: run `cckt cache crops" in report.lines()[-1]
    with pytest.raises(UserError, match="not finished"):
        open_column(data, "crops")
    rows_read: list[int] = []
    assert make(data, SPEC, rows_read=rows_read).made == 2
    assert rows_read == [*range(32, 48), *range(80, 96)]
    assert tree(data) == tree(made)


def test_repair_of_documents_makes_no_row_again(made, data):
    (data / "crops/values/zarr.json").write_text("{}")
    assert verify_column(data, "crops", repair=True).repaired == ()
    assert make(data, SPEC).made == 0
    assert tree(data) == tree(made)


def test_repair_of_a_good_column_changes_nothing(made, data):
    assert verify_column(data, "crops", repair=True).ok
    assert tree(data) == tree(made)


def test_an_unfinished_column_is_checked_against_its_ledgers(made, tmp_path):
    make(tmp_path, SPEC, part=ExactPart((0, 2)))
    assert kinds(tmp_path) == [("unfinished", None)]
    flip(tmp_path / "crops/values/c.2.0")
    assert kinds(tmp_path, repair=True) == [("unfinished", None), ("digest", 2)]
    assert open_writer(tmp_path, SPEC).missing() == [1, 2, 3, 5]
    make(tmp_path, SPEC)
    assert tree(tmp_path) == tree(made)


def test_agreement_equals_a_calculation_by_hand():
    a = np.array([[1, 0], [3, 4], [0, 0], [0, 0]])
    b = np.array([[0, 1], [6, 8], [0, 0], [1, 0]])
    found = agreement(a, b)
    assert (found.minimum, found.worst, found.mean, found.largest_difference) == (0.0, 0, 0.5, 4.0)
    assert agreement(a, np.full((4, 2), np.nan)).minimum == -1


def test_a_column_does_not_differ_from_its_copy(made, data):
    diff = diff_columns((made, "crops"), (data, "crops"))
    assert (diff.fields, diff.same_bytes, diff.rows) == ((), True, (100, 100))
    assert diff.lines() == ["the rows are the same, byte for byte"]


def test_diff_reports_fields_rows_and_agreement(made, tmp_path):
    spec = crops_spec(recipe={**SPEC.recipe, "teacher": {"name": "tiny/two", "digest": "sha256:w"}})
    writer = open_writer(tmp_path, spec)
    for chunk in range(7):
        lo, hi = spec.bounds(chunk)
        values = again(np.arange(lo, hi))
        values[:, :2] = values[:, 1::-1]
        writer.write(chunk, values, np.arange(lo, hi) % 7 != 4)
    writer.finish()
    diff = diff_columns((made, "crops"), (tmp_path, "crops"))
    assert diff.fields == (("recipe.teacher.name", "tiny/one", "tiny/two"),)
    assert (diff.same_bytes, diff.compared, diff.only_a, diff.only_b) == (False, 72, 14, 14)
    assert 0 < diff.agreement.minimum < diff.agreement.median < 1
    assert "recipe.teacher.name: 'tiny/one' against 'tiny/two'" in diff.lines()


def test_columns_of_different_tables_are_not_comparable(made, tmp_path):
    make(tmp_path, crops_spec(50, index_digest="sha256:other"))
    diff = diff_columns((made, "crops"), (tmp_path, "crops"))
    assert {path for path, _, _ in diff.fields} >= {"rows", "index_digest"}
    assert diff.agreement is None
    assert "100 against 50 rows, not comparable one to one" in diff.lines()


def test_a_manifest_is_plain_json(made):
    attributes = json.loads((made / "crops/zarr.json").read_text())["attributes"]["cckt"]
    assert attributes["digest"] == open_column(made, "crops").manifest.digest
