"""The command that messages name for a column makes that column: it is parsed and run."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

from cckt import cli
from cckt.cache_builder.store import column_info
from cckt.cache_builder.store.kinds import KINDS, repair_command
from tests.cache_builder.samples import write_teacher
from tests.commands.front import cckt, coco, index


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set with text and images of a teacher, in folders whose names have spaces."""
    folder = coco(tmp_path_factory.mktemp("a world"))
    teacher = write_teacher(folder / "a teacher")
    for command in (
        index(folder, "held", "all"),
        ["cache", "text", folder / "held", "--teacher", teacher],
        ["cache", "images", folder / "held", "--teacher", teacher],
    ):
        assert cli.run([str(word) for word in command]) == 0, command
    (folder / "templates.txt").write_text("a {}.\nthe {}.\n", encoding="utf-8")
    np.save(folder / "a table.npy", np.eye(4, 24, dtype=np.float32))
    return folder


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("text", ""),
        ("text-b", "--name b --templates single --synonyms --precision bf16"),
        ("text-own", "--name own --templates templates.txt"),
        ("crops", ""),
        ("crops-flipped", "--flipped --crop square --batch 3"),
        ("crops-jitter-2", "--jitter 2 --fast"),
        ("images-b", "--name b --batch 5 --precision bf16 --fast"),
        ("priors/clip", "--tau 0.1"),
        ("priors/clip", ""),
    ],
)
def test_the_command_makes_the_column_again(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, options: str
) -> None:
    monkeypatch.chdir(data)
    verb = name.partition("-")[0].partition("/")[0]
    taught = [] if verb == "priors" else ["--teacher", f"local-dir:{data / 'a teacher'}"]
    held = data / "held"
    made = cckt(capsys, "cache", verb, held, *taught, *shlex.split(options), "--overwrite")
    assert made.code == 0, made.err
    spec = column_info(held, name).manifest.spec
    command = repair_command(str(held), name, spec.recipe).replace("TEMPLATES_FILE", "templates.txt")
    shutil.rmtree(held / name)
    again = cckt(capsys, *shlex.split(command)[1:])
    assert again.code == 0, again.err
    assert column_info(held, name).manifest.spec.identity == spec.identity


def test_the_command_of_an_imported_table(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(data)
    made = cckt(capsys, "cache", "text", "held", "--name", "table", "--import", "a table.npy")
    assert made.code == 0, made.err
    spec = column_info(data / "held", "text-table").manifest.spec
    command = repair_command("held", "text-table", spec.recipe)
    assert command == "cckt cache text held --name table --import 'a table.npy'"
    assert cckt(capsys, *shlex.split(command)[1:]).code == 0


def test_without_a_known_recipe_the_command_has_only_the_option_that_is_required() -> None:
    assert repair_command("set", "crops") == "cckt cache crops set --teacher TEACHER"
    assert repair_command("my set", "priors/clip-b") == "cckt cache priors 'my set' --name b"
    assert repair_command("set", "text", {"teacher": 7, "templates": []}) == "cckt cache text set"
    assert repair_command("set", "notes", {"batch": 3}) == "cckt cache notes set"


def test_only_commands_with_out_are_advised_to_use_it() -> None:
    commands: Any = typer.main.get_command(cli.app)
    for kind in KINDS.values():
        verb = kind.verb or kind.name.partition("/")[0]
        options = {
            one for parameter in commands.commands["cache"].commands[verb].params for one in parameter.opts
        }
        assert ("--out" in options) == kind.takes_out, kind.name
