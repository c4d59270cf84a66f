"""Where photos come from."""

from __future__ import annotations

import os
import stat
import sys

import pytest
from PIL import Image

from cache_builder.errors import UserError
from detector.sources import find_photos, is_video, video_frames


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("b.jpg", "a.PNG", "notes.txt", "clip.mp4", "in/c.webp", ".hidden.jpg"):
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def names(paths, folder):
    return [str(path.relative_to(folder)) for path in paths]


def test_no_place_gives_no_photo():
    assert find_photos([]) == []


def test_files_folders_patterns_and_lists(folder):
    assert names(find_photos([folder]), folder) == ["a.PNG", "b.jpg", "clip.mp4"]
    assert names(find_photos([f"{folder}/**/*"]), folder) == ["a.PNG", "b.jpg", "clip.mp4", "in/c.webp"]
    assert names(find_photos([f"{folder}/*.jpg", folder / "b.jpg"]), folder) == ["b.jpg"]
    assert names(find_photos([folder / "notes.txt"]), folder) == ["notes.txt"]  # named: the reader will say
    assert find_photos(["-"], ["x.jpg\n", "\n", " y.png \n"])[1].name == "y.png"


def test_a_name_with_brackets_that_exists_is_no_pattern(folder):
    (folder / "odd[1].jpg").write_bytes(b"x")
    assert names(find_photos([folder / "odd[1].jpg"]), folder) == ["odd[1].jpg"]


@pytest.mark.parametrize("place", ["nowhere.jpg", "*.gif", "empty"])
def test_places_without_photos_are_refused(folder, place):
    (folder / "empty").mkdir()
    with pytest.raises(UserError, match="no such photo, nor a folder or pattern that holds some"):
        find_photos([folder / place])
    with pytest.raises(UserError, match="the list on stdin is empty"):
        find_photos(["-"], ["\n"])


def stub(folder, monkeypatch, body):
    """An ffmpeg that answers as told."""
    program = folder / "bin" / "ffmpeg"
    program.parent.mkdir()
    program.write_text(f"#!{sys.executable}\nimport sys\n{body}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(program.parent) + os.pathsep + os.environ["PATH"])


def test_frames_of_a_video_come_one_by_one_with_their_time(folder, monkeypatch):
    stub(
        folder,
        monkeypatch,
        "assert 'fps=1/0.5' in sys.argv\n"
        "for k in range(3): sys.stdout.buffer.write(b'P6\\n4 2\\n255\\n' + bytes([10 * k]) * 24)",
    )
    video = folder / "clip.mp4"
    assert is_video(video)
    frames = list(video_frames(video, every=0.5))
    assert [frame.size for frame in frames] == [(4, 2)] * 3
    assert [frame.getpixel((0, 0)) for frame in frames] == [(0, 0, 0), (10, 10, 10), (20, 20, 20)]
    assert [frame.filename for frame in frames] == [f"{video}@{t}s" for t in ("0.00", "0.50", "1.00")]
    first = video_frames(video, every=0.5)
    assert isinstance(next(first), Image.Image)
    first.close()


def test_what_ffmpeg_cannot_read_is_said(folder, monkeypatch):
    stub(folder, monkeypatch, "print('moov atom not found', file=sys.stderr); sys.exit(1)")
    with pytest.raises(UserError, match=r"clip\.mp4: ffmpeg cannot read it \(moov atom not found\)"):
        next(video_frames(folder / "clip.mp4"))
    with pytest.raises(UserError, match="--every 0: expected seconds above 0"):
        next(video_frames(folder / "clip.mp4", every=0))
    with pytest.raises(UserError, match="no such video"):
        next(video_frames(folder / "nowhere.mp4"))


def test_without_ffmpeg_videos_are_refused(folder, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="ffmpeg, which reads it, is not installed"):
        next(video_frames(folder / "clip.mp4"))
