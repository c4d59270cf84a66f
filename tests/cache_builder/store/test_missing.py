"""The command for a missing column has its teacher, and makes what the column is made from."""

from __future__ import annotations

from pathlib import Path

import pytest

from cckt.cache_builder.base.constants import EXAMPLE_TEACHER
from cckt.cache_builder.store import (
    ColumnName,
    all_columns_command,
    column_spec,
    command_for_missing,
    open_writer,
)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "my set"


def begin(data: Path, name: ColumnName, teacher: str = "") -> None:
    recipe = {"teacher": {"name": teacher}} if teacher else {"import": {"file": "x.npy"}}
    open_writer(
        data, column_spec(name, rows=2, width=4, chunk_rows=2, index_digest="sha256:i", recipe=recipe)
    )


def test_without_any_column_all_are_made_with_an_example_of_a_teacher(data: Path) -> None:
    for name in ("text", "crops", "images", "priors/clip"):
        assert command_for_missing(data, name) == f"cckt cache all '{data}' --teacher {EXAMPLE_TEACHER}"
    named = f"cckt cache all '{data}' --teacher mine/random:0"
    assert command_for_missing(data, "text", "mine/random:0") == named
    data.mkdir()
    (data / "world.json").write_text("{}")
    assert all_columns_command(data) == f"cckt cache all '{data}' --teacher shapeworld"
    (data / "world.json").unlink()
    (data / "index").mkdir()
    (data.parent / "rendered" / "photos").mkdir(parents=True)
    (data.parent / "rendered" / "world.json").write_text("{}")
    for card, teacher in (
        ('{"pseudo": {"teacher": "mine/random:0"}}', "mine/random:0"),  # of the run that found the boxes
        ('{"pseudo": {}}', EXAMPLE_TEACHER),
        ('{"pseudo": 3}', EXAMPLE_TEACHER),
        ("[", EXAMPLE_TEACHER),
        ('{"image_root": "../rendered/photos"}', "shapeworld"),  # rendered photos that somebody indexed
        ('{"image_root": "photos"}', EXAMPLE_TEACHER),
        ('{"image_root": 3}', EXAMPLE_TEACHER),
    ):
        (data / "index" / "index.json").write_text(card)
        assert all_columns_command(data) == f"cckt cache all '{data}' --teacher {teacher}"


def test_the_teacher_of_another_column_is_named(data: Path) -> None:
    begin(data, ColumnName("text"), "local-dir:a b")
    taught = "--teacher 'local-dir:a b'"
    assert command_for_missing(data, "crops", "other/x") == f"cckt cache crops '{data}' {taught}"
    images = f"cckt cache images '{data}' {taught}"
    assert command_for_missing(data, "images") == images
    assert command_for_missing(data, "priors/clip") == f"{images} && cckt cache priors '{data}'"
    begin(data, ColumnName("images"), "local-dir:a b")
    assert command_for_missing(data, "priors/clip") == f"cckt cache priors '{data}'"


def test_a_label_has_its_own_teacher(data: Path) -> None:
    begin(data, ColumnName("text"), "one/x")
    unknown = f"cckt cache all '{data}' --teacher TEACHER --name b"
    assert command_for_missing(data, "text-b") == unknown
    begin(data, ColumnName("text", "b"), "two/y")
    assert command_for_missing(data, "crops-b") == f"cckt cache crops '{data}' --name b --teacher two/y"


def test_a_table_that_names_no_teacher(data: Path) -> None:
    begin(data, ColumnName("text"))
    assert command_for_missing(data, "crops", "mine/x") == f"cckt cache crops '{data}' --teacher mine/x"


def test_what_only_the_user_knows_is_in_capitals(data: Path) -> None:
    assert command_for_missing(data, "proposals/boxes") == f"cckt cache proposals '{data}' --from RUN"
    named = f"cckt cache proposals '{data}' --name owl --from RUN"
    assert command_for_missing(data, "proposals-owl/boxes") == named
    assert command_for_missing(data, "priors/mllm") == f"cckt cache priors '{data}' --mllm"
