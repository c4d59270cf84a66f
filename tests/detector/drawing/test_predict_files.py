"""Predictions on files, with pictures."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.progress import Silent
from cckt.cache_builder.vocabulary import Vocabulary
from cckt.detector.drawing import picture_files
from cckt.detector.drawing import predict_files as module
from cckt.detector.drawing.predict_files import predict_files
from cckt.detector.drawing.products import Products
from cckt.detector.inference.journal import Journal
from cckt.detector.inference.photo_sources import _ffmpeg, video_frames
from cckt.detector.inference.predict import Predictor
from cckt.detector.inference.prediction import Prediction

CONCEPTS = Vocabulary.free("cup")


class Blind:
    """A detector that finds nothing; paths stay unread, and one named broken has a fault."""

    def __init__(self) -> None:
        self.inputs: list[Any] = []

    def stream(self, images: Iterator[Any], vocabulary: Vocabulary, **options: Any) -> Iterator[Prediction]:
        assert options == {"strict": False, "min_score": 0.25}
        for image in images:
            self.inputs.append(image)
            name = str(getattr(image, "filename", image))
            fault = "broken.png cannot be read" if "broken" in name else ""
            yield Prediction.empty(vocabulary, (8, 8), name, fault)


class Notes(Silent):
    """Progress that keeps its notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


def files(folder: Path) -> list[Path]:
    for name in ("0.png", "1.png"):
        Image.new("RGB", (8, 8)).save(folder / name)
    (folder / "broken.png").write_text("not an image")
    return [folder / name for name in ("0.png", "broken.png", "1.png")]


def predict(paths: list[Path], **options: Any) -> tuple[list[Prediction], Blind, Notes]:
    detector, progress = Blind(), Notes()
    found = predict_files(
        cast(Predictor, detector), paths, CONCEPTS, progress=progress, min_score=0.25, **options
    )
    return found, detector, progress


def test_predictions_have_the_order_of_the_files(tmp_path: Path) -> None:
    paths = files(tmp_path)
    found, detector, progress = predict(paths)
    assert [one.source for one in found] == list(map(str, paths))
    assert ["broken.png: is not an image" in note for note in progress.notes] == [True]
    assert [one.fault != "" for one in found] == [False, True, False]
    assert [image.filename for image in detector.inputs] == [str(paths[0]), str(paths[2])]


def test_pictures_are_numbered_like_the_files(tmp_path: Path) -> None:
    out = tmp_path / "out" / "pictures"
    predict(files(tmp_path), pictures=out)
    assert sorted(path.name for path in out.iterdir()) == ["00001-0.jpg", "00003-1.jpg"]


def test_a_video_that_cannot_be_read_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def frames(path: Path, every: float) -> Iterator[Image.Image]:
        if path.name == "bad.mp4":
            raise UserError("bad.mp4 cannot be read")
        yield from (Image.new("RGB", (8, 8)) for _ in range(int(4 / every)))

    monkeypatch.setattr(module, "video_frames", frames)
    found, _, progress = predict([tmp_path / "bad.mp4", tmp_path / "good.mp4"], every=2.0)
    assert len(found) == 2
    assert progress.notes == ["bad.mp4 cannot be read"]
    with pytest.raises(UserError, match="no frame could be read; give another --every"):
        predict([tmp_path / "bad.mp4"])


def test_files_none_of_which_can_be_read_are_an_error(tmp_path: Path) -> None:
    broken = files(tmp_path)[1]
    with pytest.raises(UserError, match=r"broken\.png: is not an image.*; give another photo\."):
        predict([broken])
    with pytest.raises(UserError, match="none of the 2 photos could be read"):
        predict([broken, broken])


def test_a_full_disk_ends_the_pictures_and_keeps_the_predictions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(picture_files, "write_bytes", full)
    found, _, progress = predict(files(tmp_path), pictures=tmp_path / "out")
    assert len(found) == 3
    assert sorted("no more pictures are drawn" in note for note in progress.notes) == [False, True]
    assert not list((tmp_path / "out").iterdir())


def test_a_folder_for_pictures_that_cannot_be_made_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="a part of this path is a file"):
        predict(files(tmp_path), pictures=tmp_path / "file" / "below")


def test_pictures_of_somebody_else_are_refused_and_ours_are_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "holiday.png").write_text("precious")
    (out / "00001-0.jpg").write_text("precious")
    with pytest.raises(UserError, match=r"00001-0\.jpg that is not a picture of cckt predict"):
        predict(files(tmp_path), pictures=out)
    assert (out / "00001-0.jpg").read_text() == "precious"
    (out / "predictions.json").touch()  # a folder of an earlier version, whose pictures have no mark
    predict(files(tmp_path), pictures=out)
    (out / "predictions.json").unlink()
    predict(files(tmp_path), pictures=out)
    assert (out / "holiday.png").read_text() == "precious"


def test_a_stopped_command_continues_behind_the_finished_files(tmp_path: Path) -> None:
    paths, out = files(tmp_path), tmp_path / "out"
    whole, _, _ = predict(paths, pictures=tmp_path / "at once")

    class Stopped(Blind):
        def stream(self, images: Any, vocabulary: Vocabulary, **options: Any) -> Iterator[Prediction]:
            for number, one in enumerate(super().stream(images, vocabulary, **options)):
                if number == 1:
                    raise KeyboardInterrupt
                yield one

    journal = Journal(out, {"seed": 1}, CONCEPTS)
    with pytest.raises(KeyboardInterrupt):
        predict_files(
            cast(Predictor, Stopped()), paths, CONCEPTS, journal=journal, pictures=out, min_score=0.25
        )
    journal.close()
    partial = (out / "predictions.partial").read_text()
    (out / "predictions.partial").write_text(partial + '{"source": "half a li')

    with pytest.raises(
        UserError, match=r"out: holds unfinished results .* differ in --seed, as .*partial says"
    ):
        Journal(out, {"seed": 2}, CONCEPTS)

    journal = Journal(out, {"seed": 1}, CONCEPTS)
    assert journal.inputs >= 1
    detector, progress = Blind(), Notes()
    found = predict_files(
        cast(Predictor, detector),
        paths,
        CONCEPTS,
        journal=journal,
        pictures=out,
        progress=progress,
        min_score=0.25,
    )
    assert "of 3 files are finished; the rest follows" in progress.notes[0]
    assert [one.source for one in found] == [one.source for one in whole]
    assert [one.size for one in found] == [one.size for one in whole]
    assert len(detector.inputs) < 2, "expected only the rest to be predicted"
    journal.remove()
    assert sorted(path.name for path in out.iterdir()) == ["00001-0.jpg", "00003-1.jpg"]


def test_a_journal_of_somebody_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "predictions.partial").write_text("precious")
    with pytest.raises(UserError, match="is not a journal of cckt predict"):
        Journal(tmp_path, {}, CONCEPTS)


@pytest.mark.parametrize(
    "line", ["5", "[]", "{}", "{", "[" * 5000, '{"source": "a", "size": [1], "boxes": 3}']
)
def test_a_line_that_cannot_be_read_ends_a_journal(tmp_path: Path, line: str) -> None:
    journal = Journal(tmp_path, {"seed": 1}, CONCEPTS)
    journal.add(Prediction.empty(CONCEPTS, (8, 8), "a.png", ""))
    journal.done()
    journal.close()
    with journal.path.open("a") as file:
        file.write(f"{line}\n")
    journal = Journal(tmp_path, {"seed": 1}, CONCEPTS)
    assert [one.source for one in journal.found] == ["a.png"]
    journal.close()


@pytest.mark.parametrize(("batch", "kept"), [(1, 5), (2, 5), (3, 4), (4, 5), (5, 0)])
def test_a_journal_goes_on_at_the_beginning_of_a_batch(tmp_path: Path, batch: int, kept: int) -> None:
    """The second of the five photos could not be read and was in no batch."""
    journal = Journal(tmp_path, {"seed": 1}, CONCEPTS)
    for number in range(5):
        fault = "is empty" if number == 1 else ""
        journal.add(Prediction.empty(CONCEPTS, (8, 8), f"{number}.png", fault))
        journal.done()
    journal.close()
    assert Journal(tmp_path, {"seed": 1}, CONCEPTS, batch).inputs == kept


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        (lambda path: None, 3),
        (lambda path: path.write_bytes(b"another photo"), 1),
        (lambda path: os.utime(path, ns=(0, 0)), 1),
        (lambda path: path.unlink(), 1),
    ],
)
def test_a_photo_that_was_replaced_is_predicted_again(tmp_path: Path, change: Any, kept: int) -> None:
    """With all that follow; the third cannot be read, which is kept until there is a file."""
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for path in paths[:2]:
        path.write_bytes(b"photo")
    journal = Journal(tmp_path / "out", {"seed": 1}, CONCEPTS, paths=paths)
    for number, path in enumerate(paths):
        journal.add(Prediction.empty(CONCEPTS, (8, 8), path.name, "does not exist" if number == 2 else ""))
        journal.done()
    journal.close()
    for _ in range(2):  # a resumed journal keeps what it knows of the files
        journal = Journal(tmp_path / "out", {"seed": 1}, CONCEPTS, paths=paths)
        assert journal.inputs == 3
        journal.close()
    change(paths[1])
    assert Journal(tmp_path / "out", {"seed": 1}, CONCEPTS, paths=paths).inputs == kept
    paths[2].write_bytes(b"at last")
    assert Journal(tmp_path / "out", {"seed": 1}, CONCEPTS, paths=paths).inputs == min(kept, 2)


def test_a_pipe_in_the_place_of_a_journal_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "predictions.partial")
    with pytest.raises(UserError, match="no regular file"):
        Journal(tmp_path, {}, CONCEPTS)


def test_crops_are_saved_in_a_folder_per_concept(tmp_path: Path) -> None:
    image = Image.new("RGB", (8, 8))
    vars(image)["filename"] = "a/0.png"
    box = np.array([[1.2, 2, 5.5, 9]], np.float32)
    words = Vocabulary.free("../cup")
    one = Prediction(box, np.array([0.5], np.float32), np.array([0]), words, (8, 8), "a/0.png")
    Products(crops=tmp_path / "crops").write(3, image, one)
    (path,) = (tmp_path / "crops").rglob("*.jpg")
    assert path.relative_to(tmp_path / "crops").as_posix() == "_cup/00003-01-0.50-0.jpg"
    assert Image.open(path).size == (5, 6)


def test_frames_are_saved_and_named_as_sources(tmp_path: Path) -> None:
    frame = Image.new("RGB", (8, 8))
    vars(frame)["filename"] = "in/clip.mp4@2.00s"
    products = Products(frames=tmp_path / "frames")
    one = products.named(Prediction.empty(CONCEPTS, (8, 8), "in/clip.mp4@2.00s"), frame)
    assert one.source == str(tmp_path / "frames" / "clip.mp4@2.00s.jpg")
    assert products.write(1, frame, one) is None
    assert Image.open(one.source).size == (8, 8)


@pytest.mark.skipif(_ffmpeg() is None, reason="no ffmpeg")
def test_an_annotated_video_has_the_frames_of_the_video(tmp_path: Path) -> None:
    products = Products(videos=tmp_path)
    for number in range(3):
        frame = Image.new("RGB", (65, 48), (80 * number, 0, 0))
        vars(frame)["filename"] = f"in/clip.mp4@{number}.00s"
        drawn = products.write(
            number, frame, Prediction.empty(CONCEPTS, (65, 48), f"in/clip.mp4@{number}.00s")
        )
        assert drawn is not None
        products.add_frame(drawn)
    products.end_of_input()
    assert len(list(video_frames(tmp_path / "clip-detections.mp4", 1.0))) == 3


def write_video(folder: Path) -> None:
    """Write folder/clip-detections.mp4 by our code."""
    products = Products(videos=folder)
    frame = Image.new("RGB", (64, 48))
    vars(frame)["filename"] = "in/clip.mp4@0.00s"
    drawn = products.write(1, frame, Prediction.empty(CONCEPTS, (64, 48), "in/clip.mp4@0.00s"))
    assert drawn is not None
    products.add_frame(drawn)
    products.end_of_input()


@pytest.mark.skipif(_ffmpeg() is None, reason="no ffmpeg")
def test_a_video_of_ours_may_be_made_again(tmp_path: Path) -> None:
    write_video(tmp_path)
    Products(videos=tmp_path).require_own([Path("in/clip.mp4")])
    assert [path.name for path in tmp_path.iterdir()] == ["clip-detections.mp4"]


@pytest.mark.parametrize(
    ("name", "products"),
    [
        ("clip-detections.mp4", {"videos": "."}),
        ("crops/cup/00001-01-0.50-a.jpg", {"crops": "crops"}),
        ("frames/clip.mp4@2.00s.jpg", {"frames": "frames"}),
        ("00001-a.jpg", {"pictures": "."}),
    ],
)
def test_a_file_of_the_user_in_the_place_of_a_product_is_kept(
    tmp_path: Path, name: str, products: dict[str, str]
) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"precious")
    wanted = Products(**{kind: tmp_path / folder for kind, folder in products.items()})  # type: ignore[arg-type]
    with pytest.raises(UserError, match=rf"found a file {re.escape(str(path))} that is not a"):
        predict_files(cast(Predictor, Blind()), [Path("in/clip.mp4")], CONCEPTS, products=wanted)
    assert path.read_bytes() == b"precious"


def test_two_videos_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"2 videos would be written as clip-detections\.mp4"):
        Products(videos=tmp_path).require_own([Path("a/clip.mp4"), Path("b/clip.mov")])
