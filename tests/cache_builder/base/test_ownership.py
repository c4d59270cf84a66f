"""A file or folder without our mark is refused by name; streams, empty and missing files are accepted."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.ownership import (
    json_mark,
    json_object,
    require_ours_or_absent,
    require_own_folder,
    text_mark,
)

OURS, FOREIGN = json_mark("figures"), "precious"


def test_a_file_without_our_mark_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    for content in (FOREIGN, '{"other": 1}', "[]", "[" * 100_000):
        path.write_text(content)
        with pytest.raises(UserError, match=r"--out: found a file .*/metrics\.json that is not figures of"):
            require_ours_or_absent(path, OURS, "figures of cckt eval")
    path.unlink()
    (path / "inside").mkdir(parents=True)
    with pytest.raises(UserError, match=r"found a folder .*/metrics\.json"):
        require_ours_or_absent(path, OURS, "figures of cckt eval")


def test_missing_empty_and_own_files_are_accepted(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    require_ours_or_absent(path, OURS, "figures")
    require_ours_or_absent(path / "below" / "missing", OURS, "figures")
    path.touch()
    require_ours_or_absent(path, OURS, "figures")
    path.write_text('{"figures": {}, "more": 1}')
    require_ours_or_absent(path, OURS, "figures")
    (tmp_path / "link").symlink_to(path)
    require_ours_or_absent(tmp_path / "link", OURS, "figures")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_devices_and_pipes_are_accepted_without_reading_them(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path(os.devnull)):
        require_ours_or_absent(path, OURS, "figures")
        assert json_object(path) == {}


def test_text_near_the_beginning_is_a_mark(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("<html><meta name=generator content=cckt>")
    assert text_mark("absent", "content=cckt")(page)
    page.write_text(" " * 5000 + "content=cckt")
    assert not text_mark("content=cckt")(page)
    assert not text_mark("x")(tmp_path)


def test_a_card_vouches_for_the_files_of_its_folder(tmp_path: Path) -> None:
    def check() -> None:
        require_own_folder(tmp_path, "metrics.json", OURS, ["detections.json"], "written by cckt eval")

    check()
    (tmp_path / "notes.txt").write_text(FOREIGN)
    check()
    (tmp_path / "detections.json").write_text("[1]")
    with pytest.raises(UserError, match=r"detections\.json that is not written by cckt eval"):
        check()
    (tmp_path / "metrics.json").write_text(json.dumps({"figures": {}}))
    check()
    (tmp_path / "metrics.json").write_text("{}")
    with pytest.raises(UserError, match=r"metrics\.json that is not"):
        check()
