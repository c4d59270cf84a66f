"""The small world of the fault tests: data sets, columns and a run, made once."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cckt import cli
from cckt.cache_builder.index import open_index
from cckt.cache_builder.store import open_column
from tests.commands.front import World

Tell = Callable[[str], None]
WORDS = "mug\ncarton\nkitten\npuppy\n"


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str]) -> Tell:
    """Write a line to the terminal also if pytest captures the output: the number of cases."""

    def write(line: str) -> None:
        with capsys.disabled():
            sys.stdout.write(f"\n{line}\n")

    return write


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Data sets, columns and a run; tests copy what they change."""
    world = World.build(tmp_path_factory.mktemp("faults"))
    name_proposals(world)
    export_vectors(world)
    return world


def name_proposals(world: World) -> None:
    """Make the data set `named`, which is `seen` with named proposals, and the list words.txt."""
    named, words, boxes = (world.folder / name for name in ("named", "words.txt", "boxes.json"))
    shutil.copytree(world.seen, named)
    words.write_text(WORDS, encoding="utf-8")
    annotations = json.loads((world.folder / "coco.json").read_text())["annotations"]
    found = [{"image_id": one["image_id"], "bbox": one["bbox"], "score": 0.5} for one in annotations]
    boxes.write_text(json.dumps(found))
    for command in (
        ["cache", "proposals", named, "--import", boxes],
        ["cache", "crops", named, "--of", "proposals", "--teacher", world.teacher],
        ["cache", "nouns", named, "--nouns-from", words],
    ):
        assert cli.run([str(word) for word in command]) == 0, command


def export_vectors(world: World) -> None:
    """Write the column images of `held` as vectors.npy and ids.npy, as another program would."""
    column, index = open_column(world.held, "images"), open_index(world.held)
    vectors: Path = world.folder / "vectors.npy"
    np.save(vectors, column.take(range(len(column))).astype(np.float32))
    np.save(world.folder / "ids.npy", np.asarray(index.image_ids))
