"""`cckt cache export`, `import` and `plan`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from cckt.cache_builder.store import open_column
from tests.commands.front import Call, World


@pytest.fixture
def data(world: World, tmp_path: Path) -> Path:
    """A data set with crops, to change."""
    return Path(shutil.copytree(world.seen, tmp_path / "seen"))


def test_export_and_import_of_a_parquet_table(call: Call, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "crops.parquet"
    outcome = call("cache", "export", data, "crops", "--out", out, "--json", "-")
    assert outcome.code == 0, outcome.err
    figures = json.loads(outcome.out)
    assert figures == {"column": "crops", "files": {str(out): out.stat().st_size}}
    assert pq.read_table(out).num_rows == open_column(data, "crops").rows
    outcome = call("cache", "import", data, "crops-back", out, "--made-by", "a test", "--json", "-")
    assert outcome.code == 0, outcome.err
    column = open_column(data, "crops-back")
    assert json.loads(outcome.out) == {
        "name": "crops-back",
        "rows": column.rows,
        "invalid": 0,
        "digest": column.manifest.digest,
    }
    assert np.array_equal(column.all(), open_column(data, "crops").all())
    assert call("cache", "info", data, "crops-back").code == 0


def test_export_and_import_of_npy_files(call: Call, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "v.npy"
    outcome = call("cache", "export", data, "crops", "--format", "npy", "--out", out)
    assert outcome.code == 0, outcome.err
    assert f"{out}: " in outcome.out
    words = ["cache", "import", data, "crops-back", out, "--made-by", "a test"]
    assert "add --ids" in call(*words).sentence()
    outcome = call(*words, "--ids", tmp_path / "v.annotation_id.npy")
    assert (outcome.code, "column crops-back: " in outcome.out) == (0, True)
    assert np.array_equal(open_column(data, "crops-back").all(), np.load(out))


def test_the_default_file_is_in_the_current_folder(
    call: Call, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call("cache", "export", data, "crops").code == 0
    assert (tmp_path / "crops.parquet").is_file()


def test_rows_that_a_table_lacks_need_partial(call: Call, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "crops.parquet"
    call("cache", "export", data, "crops", "--out", out)
    pq.write_table(pq.read_table(out).slice(1), out)
    words = ["cache", "import", data, "crops-back", out, "--made-by", "a test"]
    assert "add --partial" in call(*words).sentence()
    assert not (data / "crops-back").exists()
    outcome = call(*words, "--partial", "--json", "-")
    assert json.loads(outcome.out)["invalid"] == 1


def test_mistakes_are_one_sentence(call: Call, data: Path, tmp_path: Path) -> None:
    assert "--format is 'csv'" in call("cache", "export", data, "crops", "--format", "csv").sentence()
    assert "no column crops-none" in call("cache", "export", data, "crops-none").sentence()
    table = tmp_path / "t.parquet"
    table.write_bytes(b"PAR1")
    words = ["cache", "import", data, "crops-new", table]
    assert "--made-by" in call(*words).err
    assert "cannot be read as Parquet" in call(*words, "--made-by", "a test").sentence()
    assert "cannot be imported" in call("cache", "import", data, "text", table, "--made-by", "x").sentence()


def test_plan_shows_the_cost_and_writes_nothing(call: Call, world: World, data: Path) -> None:
    before = sorted(data.rglob("*"))
    words = ["cache", "plan", data, "--teacher", world.teacher, "--workers", "0"]
    outcome = call(*words, "--json", "-")
    assert outcome.code == 0, outcome.err
    figures = json.loads(outcome.out)
    assert set(figures) == {"text", "crops", "images", "priors/clip"}
    crops = figures["crops"]
    assert crops["rows"] == open_column(data, "crops").rows
    assert crops["hours"]["8"] == pytest.approx(crops["hours"]["1"] / 8)
    assert figures["text"]["rate"] is None
    assert f"crops: {crops['rows']} rows" in call(*words).out
    assert sorted(data.rglob("*")) == before
    assert "--batch is 0" in call(*words, "--batch", "0").sentence()
