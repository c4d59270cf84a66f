"""The Python API: `from cckt import Detector`, then `Detector.load(run).predict(images, vocabulary)`.

Here a trained detector and the teacher that it learnt from meet, as they do in `cckt predict`: the detector
itself never loads a teacher (docs/architecture.md). docs/api.md shows the use.
"""

from __future__ import annotations

from pathlib import Path

from cache_builder.errors import UserError
from cache_builder.guide import TeacherGuide
from cache_builder.store import teacher_of
from cache_builder.teacher import Teacher, load_teacher
from cache_builder.vocabulary import Vocabulary
from detector import predict
from detector.checkpoint import Facts
from detector.prediction import Prediction, write_coco, write_csv, write_yolo

__all__ = ["Detector", "Prediction", "UserError", "Vocabulary", "write_coco", "write_csv", "write_yolo"]


class Detector(predict.Detector):
    """A trained run with its teacher beside it; `predict` and `stream` as in `detector.predict.Detector`."""

    @staticmethod
    def load(  # type: ignore[override]
        run: Path | str,
        device: str = "auto",
        *,
        teacher: str | Teacher | None = None,
        weights: Path | None = None,
    ) -> predict.Detector:
        """Open a run folder, or a folder that `cckt export --format hf-folder` wrote.

        teacher: who reads the words; None: the one that the run learnt from, by its name. weights: other than
        the judged ones. Raises UserError where `run` is no run folder, its teacher cannot be had, or
        `teacher` has other weights than the run's.
        """
        facts = Facts.load(Path(run))
        known = teacher_of(facts.text_recipe) or teacher_of(facts.crops_recipe) or {}
        named = teacher or known.get("name")
        if named is None:
            raise UserError(
                f"{run} learnt from an imported table that names no teacher; give --teacher NAME."
            )
        mind = named if isinstance(named, Teacher) else load_teacher(named, device=device)
        return predict.Detector.load(
            run, device, guide=TeacherGuide(mind, facts.text_recipe), weights=weights
        )
