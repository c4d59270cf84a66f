"""What columns will cost, before they are made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cckt.cache_builder.columns.all_at_once import cache_all
from cckt.cache_builder.columns.plan import lines_of, plan_columns
from cckt.cache_builder.store import column_info
from cckt.cache_builder.teacher.clip import Teacher
from tests.cache_builder.samples import write_photos


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_photos(tmp_path)


def test_the_plan_has_the_rows_bytes_and_chunks_of_the_columns(data: Path, teacher: Teacher) -> None:
    plans = plan_columns(data, teacher, workers=1)
    assert not list(data.glob("*/zarr.json")), "nothing is written"
    cache_all(data, teacher)
    for plan in plans:
        info = column_info(data, plan.name)
        spec = info.manifest.spec
        assert (plan.rows, plan.chunks) == (spec.rows, spec.n_chunks)
        chunk_files = list((data / plan.name).rglob("c.*"))
        assert plan.bytes == sum(path.stat().st_size for path in chunk_files)
        if plan.rate is not None:
            assert plan.valid_rows == spec.rows - info.manifest.invalid


def test_hours_follow_from_the_rate(data: Path, teacher: Teacher) -> None:
    plans = {plan.name: plan for plan in plan_columns(data, teacher, workers=0)}
    crops = plans["crops"]
    assert crops.rate is not None
    assert crops.rate > 0
    assert crops.hours(1) == crops.valid_rows / crops.rate / 3600
    assert np.isclose(crops.hours(8) * 8, crops.hours(1))  # type: ignore[operator]
    assert plans["text"].rate is plans["text"].hours(1) is None
    lines = "\n".join(lines_of(list(plans.values())))
    assert "crops: 27 rows" in lines
    assert "h on 1, " in lines
    assert crops.to_json()["hours"].keys() == {"1", "8", "64"}
