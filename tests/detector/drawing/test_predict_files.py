"""Predictions on files, with pictures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from PIL import Image

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.progress import Silent
from cckt.cache_builder.vocabulary import Vocabulary
from cckt.detector.drawing import picture_files
from cckt.detector.drawing import predict_files as module
from cckt.detector.drawing.predict_files import predict_files
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
    assert progress.notes == ["broken.png cannot be read"]
    assert detector.inputs == paths, "expected paths if nothing is drawn"


def test_pictures_are_numbered_and_share_the_decoding(tmp_path: Path) -> None:
    out = tmp_path / "out" / "pictures"
    _, detector, _ = predict(files(tmp_path), pictures=out)
    assert sorted(path.name for path in out.iterdir()) == ["00001-0.png", "00003-1.png"]
    assert [isinstance(image, Image.Image) for image in detector.inputs] == [True, False, True]


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
    with pytest.raises(UserError, match="none of the 1 photos could be read"):
        predict([files(tmp_path)[1]])


def test_a_full_disk_ends_the_pictures_and_keeps_the_predictions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(picture_files, "write_bytes", full)
    found, _, progress = predict(files(tmp_path), pictures=tmp_path / "out")
    assert len(found) == 3
    assert ["no more pictures are drawn" in note for note in progress.notes] == [True, False]
    assert not list((tmp_path / "out").iterdir())


def test_a_folder_for_pictures_that_cannot_be_made_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="a part of this path is a file"):
        predict(files(tmp_path), pictures=tmp_path / "file" / "below")


def test_pictures_of_somebody_else_are_refused_and_ours_are_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "holiday.png").write_text("precious")
    (out / "00001-0.png").write_text("precious")
    with pytest.raises(UserError, match=r"00001-0\.png that is not a picture of cckt predict"):
        predict(files(tmp_path), pictures=out)
    assert (out / "00001-0.png").read_text() == "precious"
    (out / "predictions.json").touch()  # a folder of an earlier version, whose pictures have no mark
    predict(files(tmp_path), pictures=out)
    (out / "predictions.json").unlink()
    predict(files(tmp_path), pictures=out)
    assert (out / "holiday.png").read_text() == "precious"
