"""Tables of vectors and exports in the hands of others: no hang, no loss, one sentence."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.columns.crops import cache_crops
from cckt.cache_builder.columns.exchange.column_out import export_column
from cckt.cache_builder.columns.images import cache_images
from cckt.cache_builder.store.exchange.parquet_out import parquet_mark
from cckt.cache_builder.store.exchange.tables_in import WIDEST, VectorTable
from cckt.cache_builder.teacher.clip import Teacher
from tests.cache_builder.samples import write_photos

ROW = [1.0, 0.0, 0.0]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, teacher: Teacher) -> Path:
    data = write_photos(tmp_path_factory.mktemp("set"))
    cache_crops(data, teacher, chunk_rows=8)
    cache_images(data, teacher, chunk_rows=4)
    return data


def table(path: Path, ids: Any, vectors: Any) -> Path:
    pq.write_table(pa.table({"id": ids, "vector": vectors}), path)
    return path


def read(path: Path, ids: Path | None = None) -> list[Any]:
    return list(VectorTable(path, ids, "id").blocks())


def floats(*rows: list[float]) -> pa.Array:
    return pa.array(list(rows), pa.list_(pa.float32()))


@pytest.mark.parametrize(
    ("ids", "vectors", "message"),
    [
        (pa.array([1, None]), floats(ROW, ROW), "its column id lacks the id of a row"),
        (pa.array([1, 2**64 - 1], pa.uint64()), floats(ROW, ROW), "cannot be read as Parquet"),
        (pa.array([1, 2, 3]), floats(ROW, ROW[:2], [*ROW, 0.0]), "vectors of different lengths, expected 3"),
        (pa.array([1.0, 2.0]), floats(ROW, ROW), "holds double, expected integers"),
        (pa.array([1]), floats([0.0] * (WIDEST + 1)), f"hold {WIDEST + 1} values, expected at most {WIDEST}"),
        (
            pa.array([1]),
            pa.FixedSizeListArray.from_arrays(pa.nulls(WIDEST + 1, pa.float16()), WIDEST + 1),
            f"hold {WIDEST + 1} values",
        ),
        (pa.array([1]), floats([]), "holds no vector"),
        (pa.array([], pa.int64()), floats(), "holds no vector"),
    ],
)
def test_values_that_do_not_fit(tmp_path: Path, ids: Any, vectors: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(table(tmp_path / "t.parquet", ids, vectors))


def test_a_small_file_that_decodes_into_gigabytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = pa.array([[0.0] * 4]).cast(pa.list_(pa.float32()))
    many = pa.chunked_array([vectors.take(pa.array(np.zeros(500_000, np.int64)))] * 2)
    path = table(
        tmp_path / "rows.parquet", pa.chunked_array([pa.array(np.zeros(500_000, np.int64))] * 2), many
    )
    assert path.stat().st_size < 100_000
    decoded = []
    real = pq.ParquetFile.iter_batches

    def counted(file: Any, *given: Any, **options: Any) -> Any:
        for batch in real(file, *given, **options):
            decoded.append(len(batch))
            yield batch

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", counted)
    with pytest.raises(UserError, match="holds more than 9 vectors, but only 9 rows have an id here"):
        VectorTable(path, None, "id", most=9)
    assert sum(decoded) < 10_000
    wide = pa.ListArray.from_arrays([0, 40_000_000], pa.array(np.zeros(40_000_000, np.float32)))
    path = table(tmp_path / "wide.parquet", pa.array([1]), wide)
    assert path.stat().st_size < 1_000_000
    decoded.clear()
    with pytest.raises(UserError, match=f"hold 40000000 values, expected at most {WIDEST}"):
        VectorTable(path, None, "id", most=9)
    assert decoded == []


def test_vectors_of_any_list_type(tmp_path: Path) -> None:
    fixed = pa.FixedSizeListArray.from_arrays(pa.array(ROW * 2, pa.float32()), 3)
    for number, vectors in enumerate(
        (floats(ROW, ROW), floats(ROW, ROW).cast(pa.large_list(pa.float32())), fixed)
    ):
        ((at, block),) = read(table(tmp_path / f"{number}.parquet", pa.array([4, 5]), vectors))
        assert (at, block.tolist()) == (0, [ROW, ROW])


def test_ids_of_npy_above_63_bits(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.ones((1, 3), np.float32))
    np.save(tmp_path / "i.npy", np.array([2**63], np.uint64))
    with pytest.raises(UserError, match="expected ids below"):
        read(tmp_path / "v.npy", tmp_path / "i.npy")


def test_every_damage_of_a_parquet_file_is_a_sentence(tmp_path: Path) -> None:
    path = table(tmp_path / "t.parquet", pa.array(range(50)), floats(*[ROW] * 50))
    whole, refused = path.read_bytes(), 0
    for at in range(0, len(whole), 7):
        for damaged in (whole[:at], whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :]):
            path.write_bytes(damaged)
            try:
                read(path)
            except UserError:
                refused += 1
            assert parquet_mark()(path) is False
    assert refused > len(whole) / 7, "expected at least the truncated ones"


@pytest.mark.skipif(os.name != "posix", reason="needs pipes as on POSIX")
@pytest.mark.parametrize("name", ["t.parquet", "t.npy"])
def test_a_pipe_or_a_device_is_not_read(tmp_path: Path, name: str) -> None:
    ids = tmp_path / "ids.npy"
    np.save(ids, np.arange(2))
    for make in (os.mkfifo, lambda path: path.symlink_to("/dev/zero")):
        make(tmp_path / name)
        with pytest.raises(UserError, match="it is a device or a pipe"):
            read(tmp_path / name, ids if name == "t.npy" else None)
        (tmp_path / name).unlink()


@pytest.mark.skipif(os.name != "posix", reason="needs pipes as on POSIX")
@pytest.mark.parametrize("form", ["parquet", "npy"])
def test_an_export_never_replaces_a_pipe_and_follows_a_link(data: Path, tmp_path: Path, form: str) -> None:
    os.mkfifo(tmp_path / f"pipe.{form}")
    with pytest.raises(UserError, match="is a device or a pipe, expected a file"):
        export_column(data, "images", tmp_path / f"pipe.{form}", form)
    assert (tmp_path / f"pipe.{form}").is_fifo()
    with pytest.raises(UserError, match="is a device or a pipe, expected a file"):
        export_column(data, "images", Path("/dev/null"), "parquet")
    (tmp_path / "far").mkdir()
    link = tmp_path / f"link.{form}"
    link.symlink_to(tmp_path / "far" / f"x.{form}")
    export_column(data, "images", link, form)
    assert link.is_symlink()
    assert (tmp_path / "far" / f"x.{form}").stat().st_size > 100


def test_files_next_to_an_export_are_the_users(data: Path, tmp_path: Path) -> None:
    for name in ("x.valid.npy", "x.image_id.npy", "x.npy.json"):
        (tmp_path / name).write_text("precious")
        with pytest.raises(UserError, match=f"found a file .*{name} that is not a column exported by cckt"):
            export_column(data, "images", tmp_path / "x.npy", "npy")
        assert [path.read_text() for path in tmp_path.iterdir()] == ["precious"]
        (tmp_path / name).unlink()
    files = export_column(data, "images", tmp_path / "x.npy", "npy")
    card = json.loads((tmp_path / "x.npy.json").read_text())
    assert {*card["files"], "x.npy.json"} == {path.name for path in files} == set(os.listdir(tmp_path))
    assert export_column(data, "images", tmp_path / "x.npy", "npy") == files
    with pytest.raises(UserError, match=r"x\.npy\.json that is not a column exported"):
        export_column(data, "crops", tmp_path / "x.npy", "npy")
