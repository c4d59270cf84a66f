"""A data set with proposals, crops and texts by a tiny teacher, for the tests of nouns."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from cckt.cache_builder.columns.crops import cache_crops
from cckt.cache_builder.columns.proposals import import_proposals
from cckt.cache_builder.columns.text import cache_text
from cckt.cache_builder.mllm import Mllm
from cckt.cache_builder.proposals import Selection
from cckt.cache_builder.teacher.clip import Teacher, load_teacher
from tests.cache_builder.mllm.mllm_models import build
from tests.cache_builder.samples import write_photos, write_teacher


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Teacher:
    return load_teacher(write_teacher(tmp_path_factory.mktemp("noun-teacher")), device="cpu")


@pytest.fixture(scope="session")
def mllm() -> Mllm:
    return build("llava")


def propose(data: Path, scale: float = 1.0) -> None:
    """Import proposals: the annotated boxes, and one of 12 px in each image; `scale` shrinks all."""
    held = json.loads((data.parent / "coco.json").read_text())
    boxes = [
        {"image_id": one["image_id"], "bbox": [one["bbox"][0], one["bbox"][1], one["bbox"][2] * scale,
         one["bbox"][3] * scale], "score": 1 / (2 + one["id"])}
        for one in held["annotations"]
    ]  # fmt: skip
    boxes += [{"image_id": one["id"], "bbox": [1, 1, 12, 12], "score": 0.01} for one in held["images"]]
    path = data.parent / "results.json"
    path.write_text(json.dumps(boxes))
    import_proposals(data, path, selection=Selection(min_side=4, nms=1), overwrite=True)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, teacher: Teacher) -> Path:
    """The data set, once; its fourth photo is broken."""
    folder = tmp_path_factory.mktemp("nouns") / "set"
    data = write_photos(folder, photos=5)
    (folder / "photos" / "003.png").write_bytes(b"no photo")
    propose(data)
    cache_text(data, teacher, templates="single")
    cache_crops(data, teacher, workers=0)
    cache_crops(data, teacher, workers=0, of="proposals")
    return data


@pytest.fixture
def data(made: Path, tmp_path: Path) -> Path:
    """A copy, to make nouns in."""
    shutil.copytree(made.parent, tmp_path / "set")
    return tmp_path / "set" / "data"
