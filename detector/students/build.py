"""The table of students: `model.student` names a row."""

from __future__ import annotations

from cckt.cache_builder.base.errors import UserError
from cckt.detector.config.config import Config
from cckt.detector.students.adamixer.model import AdaMixer
from cckt.detector.students.contract import Student
from cckt.detector.students.deformable_detr.model import DeformableDETR
from cckt.detector.students.faster_rcnn.model import FasterRCNN

STUDENTS: dict[str, type[Student]] = {
    "deformable_detr": DeformableDETR,
    "faster_rcnn": FasterRCNN,
    "adamixer": AdaMixer,
}
"""Name -> student."""


def student_class(config: Config) -> type[Student]:
    """Return the class that `model.student` names. Raises UserError for an unknown name."""
    name = config.model.student
    if name not in STUDENTS:
        raise UserError(
            f"option model.student: found {name!r}, expected one of {', '.join(map(repr, STUDENTS))}; change "
            "it with --set model.student=..."
        )
    return STUDENTS[name]


def build_student(config: Config, embedding_dim: int, *, pretrained: bool = True) -> Student:
    """Build the student of a config.

    embedding_dim: D of the teacher. pretrained: False skips pretrained weights, because a checkpoint follows.
    Raises UserError for an unknown student or backbone, and for weights that cannot be loaded.
    """
    return student_class(config)(config, embedding_dim, pretrained=pretrained)
