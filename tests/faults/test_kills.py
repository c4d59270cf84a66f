"""Kill every verb that writes at its operations: the same command then ends with the undisturbed result.

The short form kills at KILLS evenly spaced operations of each verb, the slow form at all of them.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cckt import cli
from cckt.cache_builder.store import open_column, open_writer
from tests.commands.front import World, coco, index, options
from tests.faults.conftest import Tell
from tests.faults.kills import Server

KILLS = 3
"""Kills of each verb in the short form."""

VARYING = re.compile(
    r"(^|/)(metrics\.jsonl?|digests\.json|files\.json|versions\.json|photos-[0-9a-f]+\.npy)$"
)
"""Files that hold seconds, digests of files that do, or when photos were written."""


MINUTE = re.compile(rb"\d{4}-\d{2}-\d{2} \d{2}:\d{2} UTC")
"""When a report was made."""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """The process from which commands are forked."""
    server = Server()
    yield server
    server.close()


@dataclass(frozen=True)
class Verb:
    """A verb that writes. begin(world, folder): make what it needs; words(world, folder): the command."""

    words: Callable[[World, Path], list[object]]
    begin: Callable[[World, Path], object] = lambda world, folder: None
    again: Callable[[World, Path], list[object]] | None = None
    """The command after a kill, if the first one refuses: `train --resume`."""


def copy(source: str) -> Callable[[World, Path], object]:
    return lambda world, folder: shutil.copytree(getattr(world, source), folder / source)


def without(source: str, column: str) -> Callable[[World, Path], object]:
    def begin(world: World, folder: Path) -> None:
        copy(source)(world, folder)
        shutil.rmtree(folder / source / column)

    return begin


def unfinished(world: World, folder: Path) -> None:
    """A column whose chunks are all made, as after a kill just before the end."""
    without("held", "images")(world, folder)
    made = open_column(world.held, "images")
    writer = open_writer(folder / "held", made.manifest.spec)
    for chunk in writer.missing():
        rows = np.arange(*writer.bounds(chunk))
        writer.write(chunk, made.take(rows), made.valid(rows))


def damaged(world: World, folder: Path) -> None:
    copy("held")(world, folder)
    (chunk,) = (folder / "held/images/values").glob("c.*")
    chunk.write_bytes(bytes(reversed(chunk.read_bytes())))


def cache(verb: str, data: str, *more: str) -> Callable[[World, Path], list[object]]:
    return lambda world, folder: ["cache", verb, folder / data, "--teacher", world.teacher, *more]


def training(world: World, folder: Path) -> list[object]:
    words = ["train", "--recipe", "shapeworld", "--train", world.seen, "--out", folder / "run"]
    return [*words, "--max-steps", "3", *options("train.checkpoint_every=2", "train.keep_checkpoints=1")]


def predict(world: World, folder: Path, *more: str) -> list[object]:
    words = ["predict", world.run, world.folder / "photos", *WORDS, "--out", folder / "new", *more]
    return [*words, "--teacher", world.teacher, "--min-score", "0"]


def named(world: World, folder: Path) -> None:
    shutil.copytree(world.folder / "named", folder / "named")


def proposals_only(world: World, folder: Path) -> None:
    """The data set with proposals and their crops, without nouns."""
    named(world, folder)
    for part in (folder / "named/proposals").iterdir():
        if part.name not in ("boxes", "crops") and part.is_dir():
            shutil.rmtree(part)


def grown(world: World, folder: Path) -> None:
    """A data set whose columns were made before its last photos were added to its index."""
    annotations = json.loads((coco(folder) / "coco.json").read_text())
    few = {**annotations, "images": annotations["images"][:4]}
    few["annotations"] = [one for one in annotations["annotations"] if one["image_id"] <= 4]
    for part in (few, annotations):
        (folder / "coco.json").write_text(json.dumps(part))
        assert cli.run([str(word) for word in index(folder, "new", "all")]) == 0
        if part is few:
            make = ["cache", "images", folder / "new", "--teacher", world.teacher, "--workers", "1"]
            assert cli.run([str(word) for word in make]) == 0


SHAPEWORLD = ["data", "shapeworld", "--photos", "3", "--workers", "1", "--out"]
LOW = ["--min-score", "0.001", "--priors", "none"]
OVER = "--overwrite"
WORDS = ["--vocabulary", "cup, box"]

VERBS = {
    "data index": Verb(lambda world, folder: index(folder, "new", "all"), lambda world, folder: coco(folder)),
    "data index over another": Verb(
        lambda world, folder: index(folder, "new", "all"),
        lambda world, folder: (coco(folder), cli.run([str(word) for word in index(folder, "new", "base")])),
    ),
    "data split": Verb(
        lambda world, folder: ["data", "split", world.held, "--share", "0.5", "--out", folder / "new"]
    ),
    "data shapeworld": Verb(lambda world, folder: [*SHAPEWORLD, folder / "new"]),
    "cache text": Verb(cache("text", "held", "--templates", "single"), without("held", "text")),
    "cache text --overwrite": Verb(cache("text", "held", "--templates", "single", OVER), copy("held")),
    "cache crops": Verb(cache("crops", "seen", "--workers", "1"), without("seen", "crops")),
    "cache images": Verb(cache("images", "held", "--workers", "1"), without("held", "images")),
    "cache images --overwrite": Verb(cache("images", "held", "--workers", "1", OVER), copy("held")),
    "cache all": Verb(cache("all", "seen", "--workers", "1"), without("seen", "crops")),
    "cache priors": Verb(
        lambda world, folder: ["cache", "priors", folder / "held"], without("held", "priors/clip")
    ),
    "cache pull": Verb(lambda world, folder: ["cache", "pull", world.held, folder / "copy"]),
    "cache images of more photos": Verb(cache("images", "new", "--workers", "1"), grown),
    "cache proposals": Verb(
        lambda world, folder: [
            *("cache", "proposals", folder / "seen", "--from", world.run),
            *("--min-side", "1", "--workers", "1", "--top", "3"),
        ],
        copy("seen"),
    ),
    "cache crops of proposals": Verb(
        cache("crops", "named", "--of", "proposals", "--workers", "1", "--name", "again"), named
    ),
    "cache nouns": Verb(
        lambda world, folder: [
            *("cache", "nouns", folder / "named"),
            *("--nouns-from", world.folder / "words.txt"),
        ],
        proposals_only,
    ),
    "cache fit-nouns": Verb(
        lambda world, folder: ["cache", "fit-nouns", folder / "named", "--w-max", "0.4"], named
    ),
    "cache export": Verb(
        lambda world, folder: [
            *("cache", "export", world.held, "images"),
            *("--format", "npy", "--out", folder / "images.npy"),
        ]
    ),
    "cache export parquet": Verb(
        lambda world, folder: ["cache", "export", world.seen, "crops", "--out", folder / "crops.parquet"]
    ),
    "cache import": Verb(
        lambda world, folder: [
            *("cache", "import", folder / "held", "images-mine", world.folder / "vectors.npy"),
            *("--ids", world.folder / "ids.npy", "--made-by", "another program"),
        ],
        copy("held"),
    ),
    "cache finish": Verb(lambda world, folder: ["cache", "finish", folder / "held"], unfinished),
    "train": Verb(training, again=lambda world, folder: ["train", "--resume", folder / "run"]),
    "eval": Verb(lambda world, folder: ["eval", folder / "run", "--data", world.held], copy("run")),
    "predict": Verb(lambda world, folder: predict(world, folder)),
    "predict yolo": Verb(lambda world, folder: predict(world, folder, "--format", "yolo", "--no-pictures")),
    "predict voc": Verb(lambda world, folder: predict(world, folder, "--format", "voc", "--crops")),
    "predict csv": Verb(lambda world, folder: predict(world, folder, "--format", "csv", "--no-pictures")),
    "pseudo": Verb(
        lambda world, folder: ["pseudo", world.run, "--data", world.seen, "--out", folder / "new", *LOW]
    ),
    "export": Verb(
        lambda world, folder: ["export", world.run, "--format", "hf-folder", "--out", folder / "new"]
    ),
    "report": Verb(
        lambda world, folder: ["report", folder / "run", "--data", world.held, "--no-sweep"], copy("run")
    ),
}


def contents(folder: Path) -> dict[str, str]:
    """Every file below a folder, hidden and temporary ones too, with its digest ("" if it holds times)."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_dir() or not path.exists():
            continue
        within = name.partition("/")[2]
        if within.startswith("tensorboard/"):  # one more file for each process that logs
            continue
        if path.name == "state.pt":  # pickle writes an object that it meets twice in another way
            found[name] = repr(values_of(torch.load(path, weights_only=True)))
            continue
        text = re.sub(re.escape(str(folder)).encode(), b"FOLDER", path.read_bytes())
        text = MINUTE.sub(b"", text) if path.suffix == ".html" else text
        found[name] = "" if VARYING.search(within) else hashlib.sha256(text).hexdigest()
    return found


def values_of(state: Any) -> Any:
    """A state of a checkpoint with its tensors as bytes."""
    if isinstance(state, dict):
        return {key: values_of(value) for key, value in sorted(state.items(), key=repr)}
    if isinstance(state, list | tuple | deque):
        return [values_of(value) for value in state]
    return (str(state.dtype), state.numpy().tobytes()) if isinstance(state, torch.Tensor) else state


def kill_everywhere(server: Server, world: World, tmp_path: Path, name: str, kills: int) -> int:
    """Kill a verb at `kills` operations (0: at all); return the number of kills."""
    verb = VERBS[name]
    start, work = tmp_path / "start", tmp_path / "work"
    start.mkdir()
    verb.begin(world, start)
    # The same path each time, because some results name their folder.
    shutil.copytree(start, work)
    whole = server.run(verb.words(world, work))
    assert whole.status == 0, f"{name}: {whole}"
    assert whole.count > 2
    expected = contents(work)
    numbers = list(range(1, whole.count + 1))
    if kills:
        numbers = sorted({max(1, round((at + 1) * whole.count / kills)) for at in range(kills)})
    for number in numbers:
        where = f"{name}, killed at operation {number} of {whole.count}"
        shutil.rmtree(work)
        shutil.copytree(start, work)
        killed = server.run(verb.words(world, work), number)
        assert (killed.status in (-9, 0), killed.lives) == (True, False), f"{where}: {killed}"
        again = server.run(verb.words(world, work))
        if again.status == 2 and verb.again is not None:
            again = server.run(verb.again(world, work))
        assert (again.status, again.lives) == (0, False), f"{where}: {again}"
        assert contents(work) == expected, where
    return len(numbers)


@pytest.mark.parametrize("name", VERBS)
def test_a_killed_command_ends_right_when_it_is_run_again(
    server: Server, world: World, tmp_path: Path, tell: Tell, name: str
) -> None:
    tell(f"{name}: {kill_everywhere(server, world, tmp_path, name, KILLS)} kills")


@pytest.mark.slow
@pytest.mark.parametrize("name", VERBS)
def test_every_operation(server: Server, world: World, tmp_path: Path, tell: Tell, name: str) -> None:
    tell(f"{name}: {kill_everywhere(server, world, tmp_path, name, 0)} kills")


def test_a_killed_repair_is_repaired_again(server: Server, world: World, tmp_path: Path) -> None:
    """`verify --repair` ends with exit 2, because it found problems; then the column's command runs."""
    start, work = tmp_path / "start", tmp_path / "work"
    start.mkdir()
    damaged(world, start)
    shutil.copytree(start, work)
    repair = ["cache", "verify", work / "held", "images", "--sample", "0", "--repair"]
    make = ["cache", "images", work / "held", "--teacher", world.teacher]
    whole = server.run(repair)
    assert whole.status == 2, whole
    for number in range(1, whole.count + 1):
        shutil.rmtree(work)
        shutil.copytree(start, work)
        assert server.run(repair, number).status in (-9, 2)
        assert server.run(repair).status == 2
        assert server.run(make).status == 0
        assert contents(work / "held") == contents(world.held)
