"""`--out`: columns in another folder or an object store are the same bytes, found and refused the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cckt.cache_builder.columns.all_at_once import cache_all
from cckt.cache_builder.columns.clip_priors import cache_clip_priors
from cckt.cache_builder.columns.crops import cache_crops
from cckt.cache_builder.columns.images import cache_images
from cckt.cache_builder.columns.text import cache_text
from cckt.cache_builder.index import open_index
from cckt.cache_builder.store import list_columns, open_column, pull
from cckt.shapeworld.dataset import make_dataset

NAMES = ["crops", "images", "priors/clip", "text"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("elsewhere") / "data"
    make_dataset(folder, 5, seed=8, workers=1)
    cache_all(folder, "shapeworld")
    return folder


def same_rows(data: Path, place: str | Path) -> None:
    digest = open_index(data).digest
    for name in NAMES:
        here = open_column(data, name, index_digest=digest)
        there = open_column(place, name, index_digest=digest)
        assert (here.all() == there.all()).all()
        assert here.manifest.chunks == there.manifest.chunks


def test_columns_in_another_folder_are_the_same(data: Path, tmp_path: Path) -> None:
    cache_all(data, "shapeworld", out=tmp_path / "columns")
    assert list_columns(tmp_path / "columns") == NAMES
    same_rows(data, tmp_path / "columns")


def test_columns_go_to_an_object_store_and_back(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("fsspec", reason="remote places need the extra `remote`")
    place = f"memory://{tmp_path.name}/columns"
    cache_text(data, "shapeworld", out=place)
    cache_images(data, "shapeworld", out=place)
    cache_crops(data, "shapeworld", out=place)
    cache_clip_priors(data, out=place)
    same_rows(data, place)
    pull(place, tmp_path / "local")
    same_rows(data, tmp_path / "local")
    taken = open_column(tmp_path / "local", "crops").take(np.array([0, 2]))
    assert taken.shape == (2, 96)
