"""--overwrite: the old column stays valid until the new one is finished, whatever happens before."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.columns.crops import cache_crops
from cckt.cache_builder.columns.text import cache_text
from cckt.cache_builder.store import ColumnWriter, column_info, list_columns, open_column
from cckt.cache_builder.teacher.clip import Teacher
from tests.cache_builder.column_samples import tree
from tests.cache_builder.columns.growth.fake_teacher import FakeTeacher
from tests.cache_builder.columns.growth.growing import some_photos

SMALL = {"chunk_rows": 8, "batch": 8, "workers": 0}


@pytest.fixture
def fake(teacher: Teacher) -> FakeTeacher:
    return FakeTeacher(teacher)


def in_place(data: Path) -> dict[str, str]:
    """Return the files of the columns in their places."""
    return {name: one for name, one in tree(data).items() if not name.startswith(("index/", ".grow"))}


def kill_after(chunks: int, make: Any) -> None:
    """Run a maker in a process that is killed with -9 when it has written some chunks."""
    pid = os.fork()
    if pid == 0:
        real, left = ColumnWriter.write, [chunks]

        def write(self: ColumnWriter, *rest: Any, **options: Any) -> int:
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(self, *rest, **options)

        ColumnWriter.write = write  # type: ignore[method-assign]
        try:
            make()
        finally:
            os._exit(1)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status), "expected the process to be killed"


@pytest.mark.parametrize("rule", ["box", "square"])
def test_a_killed_overwrite_leaves_the_old_column_and_goes_on(
    tmp_path: Path, fake: FakeTeacher, rule: str
) -> None:
    """The same column again, or one of another recipe."""
    data = some_photos(tmp_path).index(tmp_path / "data")
    cache_crops(data, fake, **SMALL)
    before, old = in_place(data), open_column(data, "crops")
    values = old.take(np.arange(len(old)))
    kill_after(3, lambda: cache_crops(data, fake, crop=rule, overwrite=True, **SMALL))
    assert in_place(data) == before
    again = open_column(data, "crops")
    assert (again.take(np.arange(len(again))) == values).all()
    assert list_columns(data) == ["crops"]
    report = cache_crops(data, fake, crop=rule, overwrite=True, **SMALL)
    assert report.skipped_chunks == 3
    assert not (data / ".grow").exists()
    assert not list(data.glob(".tmp-*[!k]"))
    cache_crops(some_photos(tmp_path / "b").index(tmp_path / "fresh"), fake, crop=rule, **SMALL)
    assert in_place(data) == in_place(tmp_path / "fresh")


def test_what_a_kill_of_another_recipe_left_is_removed(tmp_path: Path, fake: FakeTeacher) -> None:
    data = some_photos(tmp_path, photos=4).index(tmp_path / "data")
    cache_crops(data, fake, **SMALL)
    kill_after(1, lambda: cache_crops(data, fake, crop="square", overwrite=True, **SMALL))
    assert (data / ".grow/crops").exists()
    report = cache_crops(data, fake, overwrite=True, **SMALL)
    assert report.skipped_chunks == 0
    assert not (data / ".grow").exists()
    assert column_info(data, "crops").manifest.spec.recipe["crop"]["rule"] == "box"


def test_a_column_that_a_kill_was_deleting_is_removed(tmp_path: Path, fake: FakeTeacher) -> None:
    data = some_photos(tmp_path, photos=2).index(tmp_path / "data")
    cache_crops(data, fake, **SMALL)
    aside = data / f".tmp-{'0' * 32}"
    os.rename(data / "crops", aside)
    theirs = data / f".tmp-{'1' * 32}"
    theirs.mkdir()
    (theirs / "notes.txt").write_text("mine")
    cache_crops(data, fake, overwrite=True, **SMALL)
    assert not aside.exists()
    assert (theirs / "notes.txt").read_text() == "mine", "not a column: kept"


def test_files_of_somebody_else_in_the_old_column_are_kept(tmp_path: Path, fake: FakeTeacher) -> None:
    data = some_photos(tmp_path, photos=2).index(tmp_path / "data")
    cache_crops(data, fake, **SMALL)
    (data / "crops/notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds notes\.txt that do not belong to a column: .*nothing was"):
        cache_crops(data, fake, overwrite=True, **SMALL)
    assert (data / "crops/notes.txt").read_text() == "mine"


def test_an_unfinished_column_is_replaced_in_its_place(tmp_path: Path, fake: FakeTeacher) -> None:
    data = some_photos(tmp_path, photos=4).index(tmp_path / "data")
    kill_after(1, lambda: cache_crops(data, fake, **SMALL))
    kill_after(0, lambda: cache_crops(data, fake, crop="square", overwrite=True, **SMALL))
    assert not (data / ".grow").exists()
    assert cache_crops(data, fake, crop="square", overwrite=True, **SMALL).manifest is not None


def test_a_photo_that_cannot_be_read_any_more_leaves_the_old_column(
    tmp_path: Path, fake: FakeTeacher
) -> None:
    data = some_photos(tmp_path, photos=3).index(tmp_path / "data")
    cache_crops(data, fake, **SMALL)
    before = in_place(data)
    (tmp_path / "photos/001.png").write_bytes(b"no photo")
    with pytest.raises(UserError, match="001"):
        cache_crops(data, fake, overwrite=True, strict=True, **SMALL)
    assert in_place(data) == before


def test_a_text_column_is_replaced_too(tmp_path: Path, teacher: Teacher) -> None:
    data = some_photos(tmp_path, photos=1).index(tmp_path / "data")
    cache_text(data, teacher, templates="single")
    before = in_place(data)
    kill_after(0, lambda: cache_text(data, FakeTexts(teacher), templates="imagenet80", overwrite=True))
    assert in_place(data) == before
    cache_text(data, teacher, templates="ensemble12", overwrite=True)
    assert column_info(data, "text").manifest.spec.recipe["templates"]["name"] == "ensemble12"
    assert not (data / ".grow").exists()


class FakeTexts(FakeTeacher):
    """Embeds every sentence as the same vector, without torch, which a forked process must not use."""

    def encode_texts(self, texts: Any, batch: int = 1) -> Any:
        return np.tile(np.eye(self.width, dtype=np.float32)[0], (len(texts), 1))
