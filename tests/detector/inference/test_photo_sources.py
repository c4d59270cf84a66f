"""Input images: files, folders, patterns, lists, video frames."""

from __future__ import annotations

import ast
import importlib.util
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from cckt.cache_builder.base.errors import UserError
from cckt.detector.drawing.picture_files import save_picture
from cckt.detector.inference.photo_sources import (
    check_every,
    find_photos,
    is_video,
    photos_below,
    video_frames,
)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("b.jpg", "a.PNG", "notes.txt", "clip.mp4", "in/c.webp", ".hidden.jpg"):
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def names(paths, folder):
    return [str(path.relative_to(folder)) for path in paths]


def test_no_places_give_no_photos():
    assert find_photos([]) == []


def test_files_folders_patterns_and_lists(folder):
    assert names(find_photos([folder]), folder) == ["a.PNG", "b.jpg", "clip.mp4"]
    assert names(find_photos([f"{folder}/**/*"]), folder) == ["a.PNG", "b.jpg", "clip.mp4", "in/c.webp"]
    assert names(find_photos([f"{folder}/*.jpg", folder / "b.jpg"]), folder) == ["b.jpg"]
    assert names(find_photos([folder / "notes.txt"]), folder) == [
        "notes.txt"
    ]  # a named file is checked when it is read
    assert find_photos(["-"], ["x.jpg\n", "\n", " y.png \n"])[1].name == "y.png"


def test_photos_in_subfolders_are_counted_and_taken_with_recursive(folder):
    (folder / "in" / "deep").mkdir()
    for name in ("in/deep/d.jpg", "in/.hidden/e.jpg", ".trash/f.jpg"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
    expected = ["a.PNG", "b.jpg", "clip.mp4", "in/c.webp", "in/deep/d.jpg"]
    assert names(find_photos([folder], recursive=True), folder) == expected
    assert photos_below([folder, folder / "b.jpg", "-"]) == [
        f"{folder}: 2 more photos are in subfolders; add --recursive to include them"
    ]
    assert photos_below([folder / "in" / "deep", folder / "in"])[0].startswith(
        f"{folder}/in: 1 more photo is in"
    )
    above = folder / "above"
    (above / "deep").mkdir(parents=True)
    with pytest.raises(
        UserError, match=r"found no photo, only folders, expected photos; give photos that exist"
    ):
        find_photos([above])
    (above / "deep" / "g.jpg").write_bytes(b"x")
    with pytest.raises(UserError, match=r"only folders with 1 photo, .*; add --recursive to include them\."):
        find_photos([above])


def test_results_of_an_earlier_command_are_no_photos(folder):
    """Whether they were written next to the photos, or into a folder below them."""
    picture = Image.new("RGB", (8, 8))
    for name in ("00001-b.jpg", "crops/cup/00001-01-0.90-b.jpg", "out/00001-b.jpg", "out/images/b.jpg"):
        save_picture(picture, folder / name)
    (folder / "00002-mine.jpg").write_bytes(b"x")
    for name in ("predict.json", "out/predict.json"):
        (folder / name).write_text("{}")
    photos = ["00002-mine.jpg", "a.PNG", "b.jpg", "clip.mp4", "in/c.webp"]
    below = ["crops/cup/00001-01-0.90-b.jpg"]
    assert names(find_photos([folder], recursive=True, results=folder / "out"), folder) == sorted(
        [*photos, *below, "00001-b.jpg"]
    )
    found = names(find_photos([folder], recursive=True, results=folder), folder)
    assert found == sorted([*photos, "out/00001-b.jpg", "out/images/b.jpg"])
    assert names(find_photos([folder / "crops" / "cup"]), folder) == below, "a named folder is taken"


def test_an_existing_name_with_brackets_is_not_a_pattern(folder):
    (folder / "odd[1].jpg").write_bytes(b"x")
    assert names(find_photos([folder / "odd[1].jpg"]), folder) == ["odd[1].jpg"]


@pytest.mark.parametrize("place", ["nowhere.jpg", "*.gif", "empty"])
def test_places_without_photos_are_refused(folder, place):
    (folder / "empty").mkdir()
    with pytest.raises(UserError, match="found no photo, expected a photo, or a folder or pattern"):
        find_photos([folder / place])
    with pytest.raises(UserError, match="the list on stdin is empty"):
        find_photos(["-"], ["\n"])


def stub(folder, monkeypatch, body):
    """Put a program named ffmpeg with the given body on the path."""
    program = folder / "bin" / "ffmpeg"
    program.parent.mkdir()
    program.write_text(f"#!{sys.executable}\nimport sys\n{body}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(program.parent) + os.pathsep + os.environ["PATH"])


def test_frames_of_a_video_are_named_by_their_time(folder, monkeypatch):
    stub(
        folder,
        monkeypatch,
        "assert 'fps=1/0.5:round=up' in sys.argv\n"
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


def test_a_video_that_ffmpeg_cannot_read_is_refused(folder, monkeypatch):
    stub(folder, monkeypatch, "print('moov atom not found', file=sys.stderr); sys.exit(1)")
    with pytest.raises(UserError, match=r"clip\.mp4: ffmpeg cannot read it \(moov atom not found\)"):
        next(video_frames(folder / "clip.mp4"))
    with pytest.raises(UserError, match="--every 0: expected seconds above 0"):
        next(video_frames(folder / "clip.mp4", every=0))
    with pytest.raises(UserError, match="no such video"):
        next(video_frames(folder / "nowhere.mp4"))


def test_a_video_that_ends_early_is_reported_after_its_frames(folder, monkeypatch):
    frame = "sys.stdout.buffer.write(b'P6\\n1 1\\n255\\n' + bytes(3)); sys.stdout.flush()\n"
    stub(folder, monkeypatch, frame + "print('Invalid data found', file=sys.stderr); sys.exit(1)")
    frames = video_frames(folder / "clip.mp4")
    assert next(frames).size == (1, 1)
    with pytest.raises(UserError, match=r"stopped after 1 frame, before the end \(Invalid data found\)"):
        next(frames)


def test_a_real_video_is_decoded_by_the_ffmpeg_of_a_wheel(tmp_path, monkeypatch):
    wheel = pytest.importorskip(
        "imageio_ffmpeg", reason="not installed: imageio-ffmpeg (pip install -e '.[dev]')"
    )
    monkeypatch.setenv("PATH", "")
    frames = b"".join(
        b"P6\n64 48\n255\n" + bytes([level, 255 - level, 90]) * (64 * 48) for level in (0, 120, 240)
    )
    video = tmp_path / "clip.mp4"
    command = [wheel.get_ffmpeg_exe(), "-nostdin", "-loglevel", "error", "-f", "image2pipe", "-c:v", "ppm"]
    command += ["-framerate", "1", "-i", "-", "-r", "8", "-c:v", "mpeg4", "-q:v", "2", str(video)]
    subprocess.run(command, input=frames, check=True, env={})
    shown = list(video_frames(video, every=1.0))
    assert len(shown) == 3
    assert {frame.size for frame in shown} == {(64, 48)}
    for frame, level in zip(shown, (0, 120, 240), strict=True):
        red, green, _ = frame.getpixel((32, 24))
        assert (abs(red - level) < 12, abs(green - (255 - level)) < 12) == (True, True)
    assert [frame.filename.rpartition("@")[2] for frame in shown] == ["0.00s", "1.00s", "2.00s"]
    late = [frame.getpixel((32, 24))[0] for frame in video_frames(video, every=2.0)]
    assert [abs(red - level) < 12 for red, level in zip(late, (0, 240), strict=True)] == [True, True]
    (tmp_path / "torn.mp4").write_bytes(video.read_bytes()[:40])
    with pytest.raises(UserError, match=r"torn\.mp4: ffmpeg cannot read it"):
        next(video_frames(tmp_path / "torn.mp4"))


def test_without_ffmpeg_videos_are_refused(folder, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "imageio_ffmpeg" else find(name)
    )
    with pytest.raises(UserError, match="ffmpeg, which reads it, is not installed"):
        next(video_frames(folder / "clip.mp4"))


@pytest.fixture
def fake_ffmpeg(tmp_path, monkeypatch):
    """A program in the place of ffmpeg: writes its arguments, a megabyte of errors, then two frames."""
    program = tmp_path / "bin" / "ffmpeg"
    program.parent.mkdir()
    program.write_text(
        f"#!{sys.executable}\n"
        "import os, sys\n"
        f"open({str(tmp_path / 'arguments')!r}, 'w').write(repr(sys.argv))\n"
        "sys.stderr.write('broken frame\\n' * 80_000)\n"
        "sys.stderr.flush()\n"
        "os.write(1, b'P6 1 1 255\\n' + bytes(3) + b'P6 1 1 255\\n' + bytes(3))\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return tmp_path


@pytest.mark.skipif(os.name != "posix", reason="needs a script as a program")
def test_many_errors_of_ffmpeg_do_not_stop_the_frames(fake_ffmpeg):
    (fake_ffmpeg / "a.mp4").write_bytes(b"x")
    signal.alarm(60)  # a full pipe would wait for ever
    try:
        assert len(list(video_frames(fake_ffmpeg / "a.mp4"))) == 2
    finally:
        signal.alarm(0)


@pytest.mark.skipif(os.name != "posix", reason="needs a script as a program")
def test_ffmpeg_takes_a_name_for_a_file_and_opens_only_files(fake_ffmpeg, monkeypatch):
    monkeypatch.chdir(fake_ffmpeg)
    for name in ("concat:a.mp4", "-i.mp4"):
        (fake_ffmpeg / name).write_bytes(b"x")
        list(video_frames(Path(name)))
        arguments = ast.literal_eval((fake_ffmpeg / "arguments").read_text())
        assert arguments[arguments.index("-i") + 1] == f"file:{name}"
        assert arguments[arguments.index("-protocol_whitelist") + 1] == "file"


@pytest.mark.parametrize("every", [0, -1, float("nan"), float("inf"), 1e-300])
def test_seconds_between_frames(every):
    with pytest.raises(UserError, match=r"--every .*: expected seconds above 0"):
        check_every(every)
