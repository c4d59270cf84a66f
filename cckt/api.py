"""Python API: `from cckt import Detector`, then `Detector.load(run).predict(images, vocabulary)`.

This module joins a trained detector with its teacher, as `cckt predict` does; the detector itself never loads
a teacher. docs/api.md has examples.
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

from cckt.cache_builder.base.constants import CROP
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.teacher.clip import Teacher, load_teacher
from cckt.cache_builder.teacher.guide import TeacherGuide
from cckt.cache_builder.teacher.recorded import require_own_teacher
from cckt.cache_builder.teacher.text_cache import user_cache
from cckt.cache_builder.vocabulary import Vocabulary
from cckt.detector.config.train import Precision
from cckt.detector.inference.confirm import Confirmation
from cckt.detector.inference.label_files import (
    write_coco,
    write_coco_results,
    write_csv,
    write_voc,
    write_yolo,
)
from cckt.detector.inference.own_evaluation import prior_tau
from cckt.detector.inference.predict import Predictor
from cckt.detector.inference.prediction import Prediction
from cckt.detector.inference.vocabulary import Guide, require_teacher_of_run
from cckt.detector.runs.run_folder import Facts

__all__ = [
    "Detector",
    "Prediction",
    "UserError",
    "Vocabulary",
    "write_coco",
    "write_coco_results",
    "write_csv",
    "write_voc",
    "write_yolo",
]


def teacher_guide(run: Path, device: str = "auto", teacher: str | Teacher | None = None) -> TeacherGuide:
    """Load the teacher of a run: texts, priors and crops as in the run's columns. See `Detector.load`.

    Text embeddings are kept in the user's cache folder (`user_cache`).
    """
    facts = Facts.load(run)
    name = teacher or (facts.taught_by or {}).get("name")
    if name is None:
        raise UserError(f"{run} was trained on an imported table that names no teacher; give --teacher NAME.")
    if teacher is None:
        require_own_teacher(str(name), run)
    loaded = name if isinstance(name, Teacher) else load_teacher(name, device=device)
    crop = (facts.crops_recipe.get("crop") or {}).get("rule", CROP)
    return TeacherGuide(loaded, facts.text_recipe, prior_tau(run), crop, user_cache())


def confirmation(
    run: Path, count: int, device: str = "auto", teacher: str | Teacher | None = None
) -> Confirmation | None:
    """Return the run's teacher as `evaluate_run` and `pseudo_index` use it to confirm; None for 0 boxes.

    Raises UserError for a teacher with other weights than the run's.
    """
    if not count:
        return None
    guide = teacher_guide(run, device, teacher)
    require_teacher_of_run(guide, Facts.load(run))
    return Confirmation(guide, count)


class Detector(Predictor):
    """A trained run and its teacher; `predict` and `stream` are those of `Predictor`."""

    @classmethod
    def load(
        cls,
        run: Path | str,
        device: str = "auto",
        *,
        guide: Guide | None = None,
        weights: Path | None = None,
        teacher: str | Teacher | None = None,
        precision: Precision | None = None,
    ) -> Self:
        """Open a run folder, or a folder written by `cckt export --format hf-folder`.

        device: "auto", "cpu", "cuda", "cuda:1" or "mps". guide: source of text embeddings and priors; None
        loads the teacher. weights: a file instead of the run's own weights. teacher: a loaded CLIP model or
        its name; None loads the one that the run names. precision: "fp32", "bf16" or "fp16" of the detector;
        None takes the run's. Raises UserError if `run` is no run folder, or the teacher cannot be loaded or
        has other weights than the run's.
        """
        if guide is None:
            guide = teacher_guide(Path(run), device, teacher)
        return super().load(run, device, guide=guide, weights=weights, precision=precision)
