"""The Python API: `from cckt import Detector`, then `Detector.load(run).predict(images, vocabulary)`.

Here a trained detector and the teacher that it learnt from meet, as they do in `cckt predict`: the detector
itself never loads a teacher (docs/architecture.md). docs/api.md shows the use.
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.teacher.clip import Teacher, load_teacher
from cckt.cache_builder.teacher.guide import TeacherGuide
from cckt.cache_builder.vocabulary import Vocabulary
from cckt.detector.inference.own_evaluation import prior_tau
from cckt.detector.inference.predict import Predictor
from cckt.detector.inference.prediction import Prediction, write_coco, write_csv, write_yolo
from cckt.detector.inference.vocabulary import Guide
from cckt.detector.runs.run_folder import Facts

__all__ = ["Detector", "Prediction", "UserError", "Vocabulary", "write_coco", "write_csv", "write_yolo"]


class Detector(Predictor):
    """A trained run together with its teacher; `predict` and `stream` are those of `Predictor`."""

    @classmethod
    def load(
        cls,
        run: Path | str,
        device: str = "auto",
        *,
        guide: Guide | None = None,
        weights: Path | None = None,
        teacher: str | Teacher | None = None,
    ) -> Self:
        """Open a run folder, or a folder that `cckt export --format hf-folder` wrote.

        teacher: who reads the words; None: the one that the run learnt from, by its name. guide: in a
        teacher's place, whoever knows it. weights: other than the judged ones. Raises UserError where `run`
        is no run folder, its teacher cannot be had, or `teacher` has other weights than the run's.
        """
        if guide is None:
            facts = Facts.load(Path(run))
            named = teacher or (facts.taught_by or {}).get("name")
            if named is None:
                raise UserError(
                    f"{run} learnt from an imported table that names no teacher; give --teacher NAME."
                )
            known = named if isinstance(named, Teacher) else load_teacher(named, device=device)
            guide = TeacherGuide(known, facts.text_recipe, prior_tau(Path(run)))
        return super().load(run, device, guide=guide, weights=weights)
