"""Columns as tables of other programs, and tables of vectors as columns."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.columns.crops import cache_crops
from cckt.cache_builder.columns.exchange.column_in import import_column
from cckt.cache_builder.columns.exchange.column_out import export_column
from cckt.cache_builder.columns.images import cache_images
from cckt.cache_builder.columns.text import cache_text
from cckt.cache_builder.columns.views import usable_boxes
from cckt.cache_builder.index import open_index
from cckt.cache_builder.store import column_info, open_column
from cckt.cache_builder.teacher.clip import Teacher
from tests.cache_builder.samples import write_photos


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, teacher: Teacher) -> Path:
    data = write_photos(tmp_path_factory.mktemp("set"))
    cache_crops(data, teacher, chunk_rows=8)
    cache_images(data, teacher, chunk_rows=4)
    cache_text(data, teacher)
    return data


def test_parquet_holds_ids_names_boxes_and_vectors(data: Path, tmp_path: Path) -> None:
    (path,) = export_column(data, "crops", tmp_path / "crops.parquet")
    index, column = open_index(data), open_column(data, "crops")
    file = pq.ParquetFile(path)
    assert file.num_row_groups == column.manifest.spec.n_chunks
    table = file.read()
    vector = table.schema.field("vector").type
    assert isinstance(vector, pa.FixedSizeListType)
    assert (vector.list_size, vector.value_type) == (column.width, pa.float16())
    rows = table.to_pydict()
    assert rows["row"] == list(range(len(column)))
    assert rows["annotation_id"] == index.annotation_ids.tolist()
    assert rows["box_xyxy"] == index.box_xyxy.tolist()
    assert rows["valid"] == column.valid_all().tolist()
    for row in range(len(column)):
        image, concept = int(index.box_images[row]), index.concepts[int(index.box_concepts[row])]
        assert rows["file_name"][row] == index.file_name(image)
        assert rows["image_id"][row] == index.image_ids[image]
        assert (rows["concept"][row], rows["category_id"][row]) == (concept.name, concept.category_id)
        if rows["valid"][row]:
            assert np.array_equal(np.array(rows["vector"][row], np.float16), column.take([row])[0])
        else:
            assert rows["vector"][row] is None
    assert column.manifest.digest.encode() in file.schema_arrow.metadata[b"cckt.column"]


def test_duckdb_answers_the_mean_vector_of_a_concept(data: Path, tmp_path: Path) -> None:
    (path,) = export_column(data, "crops", tmp_path / "crops.parquet")
    query = f"""
        SELECT concept, list(mean ORDER BY place) AS mean FROM (
            SELECT concept, place, avg(value) AS mean FROM (
                SELECT concept, unnest(vector::FLOAT[]) AS value, generate_subscripts(vector, 1) AS place
                FROM '{path}' WHERE valid)
            GROUP BY concept, place)
        GROUP BY concept
    """
    found = dict(duckdb.sql(query).fetchall())
    index, column = open_index(data), open_column(data, "crops")
    for row, concept in enumerate(index.concepts):
        boxes = index.boxes_of_concept(row)
        boxes = boxes[column.valid(boxes)]
        expected = column.take(boxes).astype(np.float64).mean(axis=0)
        np.testing.assert_allclose(found[concept.name], expected, atol=1e-6)


@pytest.mark.parametrize("name", ["images", "text"])
def test_other_tables(data: Path, tmp_path: Path, name: str) -> None:
    (path,) = export_column(data, name, tmp_path / f"{name}.parquet")
    table = pq.read_table(path)
    expected = {"images": {"image_id", "file_name", "width", "height"}, "text": {"category_id", "concept"}}
    assert set(table.column_names) == {"row", "valid", "vector", *expected[name]}
    stored = np.array(table["vector"].to_pylist(), open_column(data, name).dtype)
    assert np.array_equal(stored, open_column(data, name).all())


def test_npy(data: Path, tmp_path: Path) -> None:
    files = export_column(data, "crops", tmp_path / "out.npy", "npy")
    column = open_column(data, "crops")
    assert np.array_equal(np.load(tmp_path / "out.npy"), column.all())
    assert np.load(tmp_path / "out.npy").dtype == np.float16
    assert np.array_equal(np.load(tmp_path / "out.valid.npy"), column.valid_all())
    assert np.array_equal(np.load(tmp_path / "out.annotation_id.npy"), open_index(data).annotation_ids)
    assert np.array_equal(np.load(tmp_path / "out.box_xyxy.npy"), open_index(data).box_xyxy)
    assert sorted(files) == sorted(tmp_path.iterdir())
    export_column(data, "crops", tmp_path / "out.npy", "npy")
    (tmp_path / "mine.npy").write_bytes(b"precious")
    with pytest.raises(UserError, match=r"mine\.npy that is not a column exported by cckt"):
        export_column(data, "crops", tmp_path / "mine.npy", "npy")


@pytest.mark.parametrize("name", ["crops", "images"])
def test_there_and_back_is_equal_to_the_bit(data: Path, tmp_path: Path, name: str) -> None:
    (path,) = export_column(data, name, tmp_path / "table.parquet")
    shuffled = pq.read_table(path).take(np.random.default_rng(0).permutation(len(open_column(data, name))))
    pq.write_table(shuffled, path)
    manifest = import_column(data, f"{name}-back", path, made_by="a test", overwrite=True, chunk_rows=8)
    one, other = open_column(data, name), open_column(data, f"{name}-back")
    assert np.array_equal(one.all(), other.all())
    assert np.array_equal(one.valid_all(), other.valid_all())
    assert manifest.spec.recipe["import"]["made_by"] == "a test"
    assert "cckt cache import" in column_info(data, f"{name}-back").command


def test_npy_there_and_back(data: Path, tmp_path: Path) -> None:
    export_column(data, "images", tmp_path / "a.npy", "npy")
    ids = tmp_path / "a.image_id.npy"
    import_column(data, "images-npy", tmp_path / "a.npy", ids=ids, made_by="a test", overwrite=True)
    assert np.array_equal(open_column(data, "images").all(), open_column(data, "images-npy").all())


def test_npy_of_a_column_with_rows_without_a_value(data: Path, tmp_path: Path) -> None:
    export_column(data, "crops", tmp_path / "c.npy", "npy")
    assert not open_column(data, "crops").valid(np.arange(len(usable_boxes(open_index(data))))).all()
    ids = tmp_path / "c.annotation_id.npy"
    import_column(data, "crops-npy", tmp_path / "c.npy", ids=ids, made_by="a test", partial=True)
    first, second = open_column(data, "crops"), open_column(data, "crops-npy")
    rows = np.arange(len(first))
    assert np.array_equal(first.valid(rows), second.valid(rows))
    assert np.array_equal(first.all(), second.all())


def test_corrected_ids_are_another_column(data: Path, tmp_path: Path) -> None:
    export_column(data, "images", tmp_path / "a.npy", "npy")
    right = np.load(tmp_path / "a.image_id.npy")
    np.save(tmp_path / "ids.npy", right[::-1])
    import_column(data, "images-ids", tmp_path / "a.npy", ids=tmp_path / "ids.npy", made_by="a test")
    np.save(tmp_path / "ids.npy", right)
    with pytest.raises(UserError, match="--overwrite"):
        import_column(data, "images-ids", tmp_path / "a.npy", ids=tmp_path / "ids.npy", made_by="a test")


def write_table(path: Path, data: Path, **changes: Any) -> Path:
    """Write a Parquet table with a random unit vector for every usable box; `changes` replace columns."""
    index = open_index(data)
    ids = index.annotation_ids[np.flatnonzero(usable_boxes(index))]
    vectors = np.random.default_rng(0).normal(size=(len(ids), 24)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    columns = {"annotation_id": ids, "vector": vectors, **changes}
    for name, change in changes.items():
        columns[name] = change({"annotation_id": ids, "vector": vectors}[name].copy())
    listed = pa.FixedSizeListArray.from_arrays(
        pa.array(columns["vector"].reshape(-1)), columns["vector"].shape[1]
    )
    pq.write_table(pa.table({"annotation_id": columns["annotation_id"], "vector": listed}), path)
    return path


def _set(at: Any, value: Any) -> Any:
    def change(array: Any) -> Any:
        array[at] = value
        return array

    return change


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"annotation_id": _set(3, 999)}, {}, r"1 unknown values of annotation_id \(the first is 999\)"),
        ({"annotation_id": _set(3, 1)}, {}, "annotation_id 1 2 times, expected each id once"),
        ({"vector": lambda v: v * 3}, {}, r"the vector of id 1 has length 3, expected length 1"),
        ({"vector": _set((2, 5), np.nan)}, {}, "is not finite, expected length 1"),
        ({"vector": _set(2, 0)}, {}, "has length 0, expected length 1"),
        ({}, {"made_by": " "}, "--made-by is empty"),
        ({}, {"id_name": "box"}, "has the columns annotation_id, vector, expected box"),
        ({}, {"vector_name": "annotation_id"}, "holds int64, expected lists of floats"),
        ({}, {"id_name": "vector"}, "expected integers; name the right one with --id"),
        ({}, {"ids": Path("ids.npy")}, r"--ids applies only to \.npy tables"),
    ],
)
def test_wrong_tables(
    data: Path, tmp_path: Path, changes: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    table = write_table(tmp_path / "t.parquet", data, **changes)
    before = sorted(data.iterdir())
    with pytest.raises(UserError, match=message):
        import_column(data, "crops-new", table, **{"made_by": "a test", **options})
    assert sorted(data.iterdir()) == before, "nothing was begun"


def test_other_mistakes(data: Path, tmp_path: Path, teacher: Teacher) -> None:
    table = write_table(tmp_path / "t.parquet", data)
    with pytest.raises(UserError, match="'text' cannot be imported; give crops or images"):
        import_column(data, "text", table, made_by="a test")
    with pytest.raises(UserError, match=r"is neither \.parquet nor \.npy"):
        import_column(data, "crops-new", tmp_path / "t.csv", made_by="a test")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(UserError, match="cannot be read as Parquet"):
        import_column(data, "crops-new", tmp_path / "bad.parquet", made_by="a test")
    np.save(tmp_path / "v.npy", np.zeros((3, 24), np.float32))
    np.save(tmp_path / "i.npy", np.zeros(2, np.int64))
    with pytest.raises(UserError, match=r"add --ids FILE\.npy"):
        import_column(data, "crops-new", tmp_path / "v.npy", made_by="a test")
    with pytest.raises(UserError, match="expected 3 integers, one for each row"):
        import_column(data, "crops-new", tmp_path / "v.npy", ids=tmp_path / "i.npy", made_by="a test")
    with pytest.raises(UserError, match=r"cannot be read as \.npy"):
        import_column(data, "crops-new", tmp_path / "none.npy", ids=tmp_path / "i.npy", made_by="a test")
    with pytest.raises(UserError, match="--format is 'csv'; choose one of parquet, npy"):
        export_column(data, "crops", tmp_path / "x", "csv")
    with pytest.raises(UserError, match="There is no column crops-none"):
        export_column(data, "crops-none", tmp_path / "x.parquet")
    (tmp_path / "mine.parquet").write_bytes(b"precious")
    with pytest.raises(UserError, match=r"mine\.parquet that is not a column exported by cckt"):
        export_column(data, "crops", tmp_path / "mine.parquet")


def test_missing_rows_need_partial(data: Path, tmp_path: Path) -> None:
    table = write_table(tmp_path / "t.parquet", data)
    pq.write_table(pq.read_table(table).slice(1), table)
    with pytest.raises(UserError, match=r"no vector for 1 of 25 rows \(the first is annotation_id 1\)"):
        import_column(data, "crops-part", table, made_by="a test")
    manifest = import_column(data, "crops-part", table, made_by="a test", partial=True)
    assert manifest.invalid == 3, "the missing row, the crowd and the small box"


def test_without_pyarrow(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] == "pyarrow":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"run pip install 'cckt\[parquet\]'"):
        export_column(data, "crops", tmp_path / "crops.parquet")
    export_column(data, "crops", tmp_path / "crops.npy", "npy")
