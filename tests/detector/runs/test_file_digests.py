"""digests.json: files that changed are refused; a kill never leaves a wrong entry."""

from __future__ import annotations

from pathlib import Path

import pytest

from cckt.cache_builder.base.errors import UserError
from cckt.detector.runs.file_digests import (
    DIGESTS_FILE,
    accept,
    check_recorded,
    forget,
    read_digests,
    record,
    recorded,
    recorded_problems,
)


def test_a_folder_without_digests_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    assert read_digests(tmp_path) == {}
    check_recorded(tmp_path / "a")
    assert recorded_problems(tmp_path) == []


def test_a_recorded_file_that_changed_is_refused_and_a_missing_one_is_reported(tmp_path: Path) -> None:
    with recorded(tmp_path, "a", "b", "never-written"):
        (tmp_path / "a").write_text("1")
        (tmp_path / "b").write_text("2")
    assert sorted(read_digests(tmp_path)) == ["a", "b"]
    check_recorded(tmp_path / "a")
    (tmp_path / "a").write_text("3")
    with pytest.raises(UserError, match=r"a: is not as cckt wrote it .* delete .*digests\.json"):
        check_recorded(tmp_path / "a")
    (tmp_path / "b").unlink()
    assert recorded_problems(tmp_path) == [
        f"{tmp_path / 'a'} is not as cckt wrote it",
        f"{tmp_path / 'b'} is missing",
    ]
    record(tmp_path, "a")
    check_recorded(tmp_path / "a")


def test_a_changed_file_is_accepted_on_request(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).write_text(name)
    record(tmp_path, "a", "b", "c")
    assert accept(tmp_path) == []
    (tmp_path / "a").write_text("changed")
    (tmp_path / "b").unlink()
    assert accept(tmp_path) == ["a", "b"]
    assert sorted(read_digests(tmp_path)) == ["a", "c"]
    check_recorded(tmp_path / "a")
    (tmp_path / DIGESTS_FILE).write_text("{")
    assert accept(tmp_path) == [DIGESTS_FILE]
    assert recorded_problems(tmp_path) == []


def test_recorded_weights_may_take_the_place_of_others(tmp_path: Path) -> None:
    for name in ("model.safetensors", "best.safetensors", "notes.txt"):
        (tmp_path / name).write_text(name)
    record(tmp_path, "model.safetensors", "best.safetensors", "notes.txt")
    (tmp_path / "model.safetensors").write_text("best.safetensors")
    check_recorded(tmp_path / "model.safetensors")
    assert recorded_problems(tmp_path) == []
    (tmp_path / "model.safetensors").write_text("notes.txt")
    with pytest.raises(UserError, match=r"model\.safetensors: is not as cckt wrote it"):
        check_recorded(tmp_path / "model.safetensors")


@pytest.mark.parametrize("inside", ["", "eval-held"])
def test_the_message_names_the_step_for_a_run_and_its_evaluations(tmp_path: Path, inside: str) -> None:
    folder = tmp_path / inside
    folder.mkdir(exist_ok=True)
    (tmp_path / "facts.json").write_text("{}")
    (folder / "a").write_text("1")
    record(folder, "a")
    (folder / "a").write_text("2")
    with pytest.raises(UserError) as refused:
        check_recorded(folder / "a")
    assert str(refused.value).endswith(f"run cckt doctor --run {tmp_path} --accept.")


def test_a_file_has_no_entry_while_it_is_written(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    record(tmp_path, "a")
    with recorded(tmp_path, "a"):
        assert read_digests(tmp_path) == {}
        (tmp_path / "a").write_text("2")
    check_recorded(tmp_path / "a")
    forget(tmp_path, "a")
    assert read_digests(tmp_path) == {}


@pytest.mark.parametrize("content", ["", "{", "[]", '{"files": {}}', '{"files": {"a": "b"}, "digest": "x"}'])
def test_damaged_digests_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / DIGESTS_FILE).write_text(content)
    with pytest.raises(UserError, match=r"digests\.json: is damaged"):
        check_recorded(tmp_path / "a")
