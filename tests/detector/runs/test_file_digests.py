"""digests.json: files that changed are refused; a kill never leaves a wrong entry."""

from __future__ import annotations

from pathlib import Path

import pytest

from cckt.cache_builder.base.errors import UserError
from cckt.detector.runs.file_digests import (
    DIGESTS_FILE,
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
