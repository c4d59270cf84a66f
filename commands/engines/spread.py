"""`cckt predict` and `cckt pseudo` on the nodes of a Ray cluster: what a worker does with its photos."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.progress import Progress
from cckt.cache_builder.runner.engines.ray import RayEngine
from cckt.cache_builder.vocabulary import Vocabulary
from cckt.detector.evaluation.detections import Detections
from cckt.detector.inference.photo_sources import is_video
from cckt.detector.inference.prediction import Prediction
from cckt.detector.runs.run_folder import run_config

BATCHES = 8
"""Batches of the detector that a worker gets at a time."""


def spread_predictions(
    engine: RayEngine,
    run: Path,
    paths: Sequence[Path],
    vocabulary: Vocabulary,
    *,
    device: str,
    teacher: str | None,
    pictures: Path | None,
    progress: Progress,
    options: dict[str, Any],
) -> list[Prediction]:
    """Return what `predict_files` returns, found by the actors of a cluster. Raises UserError for a video."""
    video = next((path for path in paths if is_video(path)), None)
    if video is not None:
        raise UserError(
            f"{video} is a video, expected photos with --engine ray; leave --engine out for videos, or give "
            "their frames as photos."
        )
    size = BATCHES * run_config(run).inference.batch
    starts = range(0, len(paths), size)
    units = [(start + 1, list(paths[start : start + size])) for start in starts]

    def arguments_for(placed: str, cpus: int) -> tuple[Any, ...]:
        return run, placed, teacher, vocabulary, pictures, options

    made = engine.map(
        _PredictWork,
        arguments_for,
        units,
        device=device,
        label="predict",
        rows=[len(photos) for _, photos in units],
        unit_name="photos",
        progress=progress,
    )
    found = [prediction for predictions, _ in made for prediction in predictions]
    for note in dict.fromkeys(note for _, notes in made for note in notes):
        progress.note(note)
    if all(prediction.fault for prediction in found):
        raise UserError(f"{found[0].fault}; none of the {len(found)} photos could be read, give others.")
    return found


def spread_detections(
    engine: RayEngine, run: Path, data: Path, priors: str | None, photos: int, device: str, progress: Progress
) -> Detections:
    """Return the detections of `detect_share` for all shares of a data set, found by the actors."""
    batches = -(-photos // run_config(run).inference.batch)
    shares = max(1, batches // BATCHES)

    def arguments_for(placed: str, cpus: int) -> tuple[Any, ...]:
        return run, data, priors, placed

    units = [(share, shares) for share in range(shares)]
    made = engine.map(
        _DetectWork,
        arguments_for,
        units,
        device=device,
        label="detect",
        unit_name="shares",
        progress=progress,
    )
    for note in dict.fromkeys(note for _, notes in made for note in notes):
        progress.note(note)
    return Detections.join([detections for detections, _ in made]).by_image()


class _OneStage:
    """A `Work` with the stage "work"."""

    _begun = False

    def stage(self) -> str | None:
        begun, self._begun = self._begun, True
        return None if begun else "work"


class _PredictWork(_OneStage):
    def __init__(
        self,
        run: Path,
        device: str,
        teacher: str | None,
        vocabulary: Vocabulary,
        pictures: Path | None,
        options: dict[str, Any],
    ) -> None:
        from cckt import Detector

        self._detector = Detector.load(run, device, teacher=teacher)
        self._vocabulary, self._pictures, self._options = vocabulary, pictures, options

    def make(self, unit: tuple[int, list[Path]]) -> tuple[list[Prediction], list[str]]:
        """Return the predictions of photos and the notes; unit: number of the first photo, and the paths."""
        from cckt.detector.drawing.predict_files import predict_files

        notes = _Notes()
        found = predict_files(
            self._detector,
            unit[1],
            self._vocabulary,
            pictures=self._pictures,
            first=unit[0],
            progress=notes,
            **self._options,
        )
        return found, notes.lines


class _DetectWork(_OneStage):
    def __init__(self, run: Path, data: Path, priors: str | None, device: str) -> None:
        from cckt.detector.evaluation.pseudo_labels import ShareDetector

        self._detector = ShareDetector(run, data, priors, device)

    def make(self, unit: tuple[int, int]) -> tuple[Detections, list[str]]:
        """Return the detections of share (i, n) of the photos, and the notes."""
        notes = _Notes()
        return self._detector.detect(unit, notes), notes.lines


class _Notes:
    """A `Progress` that keeps the notes."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def start(self, label: str, total: int, unit: str) -> None:
        pass

    def advance(self, n: int = 1, **figures: float | str) -> None:
        pass

    def show(self, figures: Any) -> None:
        pass

    def note(self, message: str) -> None:
        self.lines.append(message)

    def finish(self) -> None:
        pass
