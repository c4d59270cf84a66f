"""Run command lines in tests, and build a small world for them: data sets, columns and a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cckt import cli
from tests.cache_builder.samples import write_teacher

SMALL = [
    "model.backbone=test_resnet",
    "model.backbone_weights=none",
    "model.hidden=32",
    "model.heads=2",
    "model.points=2",
    "model.encoder_layers=1",
    "model.decoder_layers=1",
    "model.ffn=32",
    "model.queries=8",
    "data.workers=0",
    "train.batch=2",
    "train.epochs=1",
    "train.precision=fp32",
    "train.device=cpu",
]
"""Options that make a step of the recipe shapeworld take milliseconds."""


def options(*more: str) -> list[str]:
    """Return SMALL and more options as words of a command line."""
    return [word for value in (*SMALL, *more) for word in ("--set", value)]


@dataclass(frozen=True)
class Outcome:
    """Exit code and output of a command line."""

    code: int
    out: str
    err: str

    def sentence(self) -> str:
        """Return the message of a user error; assert that it is one line at the end of stderr."""
        assert self.code == 2, f"exit {self.code}: {self.out}{self.err}"
        assert "Traceback" not in self.err
        lines = [line for line in self.err.splitlines() if line.startswith("cckt: ")]
        assert len(lines) == 1, self.err
        assert self.err.endswith(lines[0] + "\n"), "expected the message on the last line"
        return lines[0].removeprefix("cckt: ")


Call = Callable[..., Outcome]


def cckt(capsys: pytest.CaptureFixture[str], *words: object) -> Outcome:
    """Run a command line in this process."""
    capsys.readouterr()
    code = cli.run([str(word) for word in words])
    captured = capsys.readouterr()
    return Outcome(code, captured.out, captured.err)


def coco(folder: Path, photos: int = 6) -> Path:
    """Write photos of coloured squares, annotations of four concepts, two of them novel, and a split file."""
    (folder / "photos").mkdir(parents=True)
    images, annotations = [], []
    for number in range(photos):
        picture = Image.new("RGB", (64, 64), (20 * number, 90, 60))
        images.append({"id": number + 1, "file_name": f"{number}.png", "width": 64, "height": 64})
        for corner, category in enumerate((1 + number % 2, 3 + number % 2)):
            left = 34 * corner
            picture.paste((60 * category, 255 - 50 * category, 30), (left, 20, left + 28, 50))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number + 1,
                    "category_id": category,
                    "bbox": [left, 20, 28, 30],
                    "area": 840,
                    "iscrowd": 0,
                }
            )
        picture.save(folder / "photos" / f"{number}.png")
    categories = [{"id": 1, "name": "cup"}, {"id": 2, "name": "box"}, {"id": 3, "name": "cat"}]
    categories.append({"id": 4, "name": "dog"})
    write(folder / "coco.json", {"images": images, "annotations": annotations, "categories": categories})
    write(folder / "split.json", {"base": ["cup", "box"], "novel": ["cat", "dog"]})
    return folder


def write(path: Path, value: Any) -> Path:
    """Write text, or a value as JSON."""
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return path


def index(folder: Path, name: str, keep: str) -> list[object]:
    """Return the words that index `coco(folder)` into folder/name."""
    given = ["--annotations", folder / "coco.json", "--images", folder / "photos"]
    return ["data", "index", *given, "--split", folder / "split.json", "--keep", keep, "--out", folder / name]


@dataclass(frozen=True)
class World:
    """Folders of a run and its data sets.

    seen: to train on, with columns text and crops. held: to evaluate on, with text, images and priors.
    """

    folder: Path
    seen: Path
    held: Path
    run: Path
    teacher: str

    @staticmethod
    def build(folder: Path) -> World:
        """Make everything in `folder` by command lines."""
        coco(folder)
        teacher = write_teacher(folder / "teacher")
        world = World(folder, folder / "seen", folder / "held", folder / "run", teacher)
        for command in (
            index(folder, "seen", "base"),
            index(folder, "held", "all"),
            ["cache", "text", world.seen, "--teacher", teacher],
            ["cache", "crops", world.seen, "--teacher", teacher],
            ["cache", "text", world.held, "--teacher", teacher],
            ["cache", "images", world.held, "--teacher", teacher],
            ["cache", "priors", world.held],
            world.train(world.run),
        ):
            assert cli.run([str(word) for word in command]) == 0, command
        return world

    def train(self, out: Path, *more: str) -> list[object]:
        """Return the words that train a small detector for one step."""
        folders = ["--train", self.seen, "--val", self.held, "--out", out]
        return ["train", "--recipe", "shapeworld", *folders, "--max-steps", "1", *options(), *more]
