"""The small world of the fault tests: data sets, columns and a run, made once."""

from __future__ import annotations

import json
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
    """Make the data set `named`, with crops, and proposals with nouns from the list words.txt.

    The names of cup and box are exchanged: crops are then nearer to their own names than to others by the
    untrained teacher, so that the weight of a noun can be fitted.
    """
    named, words, boxes, file = (
        world.folder / name for name in ("named", "words.txt", "boxes.json", "named.json")
    )
    words.write_text(WORDS, encoding="utf-8")
    content = json.loads((world.folder / "coco.json").read_text())
    names = {one["id"]: one["name"] for one in content["categories"]}
    exchanged = {**names, 1: names[2], 2: names[1]}
    content["categories"] = [{"id": number, "name": name} for number, name in exchanged.items()]
    file.write_text(json.dumps(content))
    found = [{"image_id": o["image_id"], "bbox": o["bbox"], "score": 0.5} for o in content["annotations"]]
    boxes.write_text(json.dumps(found))
    given = [
        "--annotations",
        file,
        "--images",
        world.folder / "photos",
        "--split",
        world.folder / "split.json",
    ]
    for command in (
        ["data", "index", *given, "--keep", "base", "--out", named],
        ["cache", "text", named, "--teacher", world.teacher],
        ["cache", "crops", named, "--teacher", world.teacher],
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
