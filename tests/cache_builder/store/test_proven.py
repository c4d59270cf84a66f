"""Rows that were compared with their digests, while another process replaces the column."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cckt.cache_builder.store import open_column
from cckt.cache_builder.store.places.files import LocalFiles
from cckt.cache_builder.store.proven import ProvenRows
from tests.cache_builder.column_samples import crops_spec, is_bad, make

ROWS = np.arange(100)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A column, and another one of as many rows in other/."""
    make(tmp_path, crops_spec())
    (tmp_path / "other").mkdir()
    make(tmp_path / "other", crops_spec(unit=False))
    return tmp_path


def replace(folder: Path) -> None:
    (folder / "crops").rename(folder / "aside")
    (folder / "other/crops").rename(folder / "crops")


def test_proven_rows_stay_those_of_the_old_column(folder: Path) -> None:
    column = open_column(folder, "crops")
    expected, proven = open_column(folder, "crops").all(), ProvenRows(column)
    usable = proven.usable(ROWS)
    assert usable.tolist() == [not is_bad(column.manifest.spec, row) for row in ROWS.tolist()]
    replace(folder)
    assert proven.usable(ROWS).tolist() == usable.tolist()
    np.testing.assert_array_equal(proven.take(ROWS[usable]), expected[usable])


def test_rows_of_a_column_that_was_replaced_before_are_not_usable(folder: Path) -> None:
    proven = ProvenRows(open_column(folder, "crops"))
    replace(folder)
    assert not proven.usable(ROWS).any()


def test_a_column_that_is_replaced_while_it_is_compared(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each reading of a file: the rows that are usable are those of the old column."""
    column = open_column(folder, "crops")
    expected, proven = column.all(), ProvenRows(open_column(folder, "crops"))
    real, left = LocalFiles.get, [5]

    def get(self: LocalFiles, key: str) -> bytes | None:
        left[0] -= 1
        if left[0] == 0:
            replace(folder)
        return real(self, key)

    monkeypatch.setattr(LocalFiles, "get", get)
    usable = proven.usable(ROWS)
    assert left[0] < 0
    assert 0 < usable.sum() < len(ROWS)
    np.testing.assert_array_equal(proven.take(ROWS[usable]), expected[usable])


def test_a_missing_or_short_chunk_is_not_usable(folder: Path) -> None:
    (folder / "crops/values/c.1.0").unlink()
    chunk = folder / "crops/values/c.2.0"
    chunk.write_bytes(chunk.read_bytes()[:-1])
    usable = ProvenRows(open_column(folder, "crops")).usable(ROWS)
    assert not usable[16:48].any()
    assert usable[:16].any()
    assert usable[48:].any()
