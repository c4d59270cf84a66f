"""The record of photos: what it holds, which files are read again, and damage."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from PIL import Image

from cckt.cache_builder.base.progress import Silent
from cckt.cache_builder.index import index_problems, open_index
from cckt.cache_builder.index.photo_files import record as room
from cckt.cache_builder.index.photo_files.record import photo_record, read_record, record_bytes, record_photos
from tests.cache_builder.samples import write_photos

NAMES = ["a.png", "b.png", "missing.png"]
LONG_AGO = 1_600_000_000


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for number, name in enumerate(NAMES[:2]):
        Image.new("RGB", (20 + number, 10)).save(tmp_path / name)
        os.utime(tmp_path / name, (LONG_AGO, LONG_AGO))
    return tmp_path


def test_a_record_holds_digest_and_size_of_each_file(photos: Path) -> None:
    found = record_photos(photos, NAMES, Silent())
    for row, name in enumerate(NAMES[:2]):
        assert found["sha256"][row].tobytes() == hashlib.sha256((photos / name).read_bytes()).digest()
        assert found["bytes"][row] == (photos / name).stat().st_size
    assert found["width"].tolist() == [20, 21, 0]
    assert found["height"].tolist() == [10, 10, 0]
    assert not found["sha256"][2].any()


def test_unchanged_files_are_not_opened_again(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = record_photos(photos, NAMES, Silent())
    os.rename(photos / "b.png", photos / "c.png")
    opened: list[str] = []
    real = room.read_header
    monkeypatch.setattr(room, "read_header", lambda path: opened.append(path.name) or real(path))
    after = record_photos(photos, ["a.png", "c.png"], Silent(), [before])
    assert opened == []
    assert (after == before[:2]).all()
    (photos / "a.png").touch()  # now: too short ago to trust
    record_photos(photos, ["a.png", "c.png"], Silent(), [before])
    assert opened == ["a.png"]


def test_every_flipped_byte_of_a_record_is_found(tmp_path: Path) -> None:
    data = write_photos(tmp_path / "set", photos=2)
    index = open_index(data)
    (path,) = (data / "index").glob("photos-*.npy")
    whole = path.read_bytes()
    record = photo_record(index)
    assert record is not None
    assert whole == record_bytes(record)
    assert index_problems(index) == []
    for at in range(0, len(whole), 7):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        assert read_record(path) is None, at
    assert index_problems(index) == [f"{path.name} is damaged"]
    for length in (0, 5, 40, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert read_record(path) is None
