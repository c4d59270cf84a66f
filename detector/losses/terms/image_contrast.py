"""Image contrast: the whole image against the teacher's embedding of it, with queues of past images
(docs/method/hd_ovd.md, eqs. 37 to 39).

Shape legend: B images, D width of the teacher.
"""

from __future__ import annotations

from torch import Tensor

from cckt.detector.config.terms import ImageContrastConfig
from cckt.detector.losses.memory import Queue, finite_rows
from cckt.detector.losses.similarity_losses import two_way_contrast
from cckt.detector.losses.terms.term import ONE_RANK, RunInputs, StepInputs, Term
from cckt.detector.students.precision import single

IMAGE = "image"
"""Name of the teacher rows of whole images."""


class ImageContrast(Term):
    """Contrast of the image level, once per step."""

    name = "image_contrast"
    needs = (IMAGE,)
    trains_regions = False
    options: ImageContrastConfig

    @property
    def normalised(self) -> bool:
        """A mean over images."""
        return True

    def prepare(self, run: RunInputs) -> None:
        """Register the queue pair."""
        self.students = Queue(1, self.options.queue, self.embedding_dim)
        self.teachers = Queue(1, self.options.queue, self.embedding_dim)

    def needs_all_ranks(self, extra_regions: bool) -> bool:
        """The queue holds the images of all ranks."""
        return True

    def forward(self, step: StepInputs) -> dict[str, Tensor]:
        """Return "image_contrast", a mean over images."""
        options, rows = self.options, step.targets.teacher[IMAGE]
        assert step.output.image is not None, "the student has no image head"
        image = single(step.output.image)
        known = rows.valid[:, 0]
        teacher = rows.values[:, 0].to(image.dtype).masked_fill(~known[:, None], 0.0)
        ranks = step.ranks if options.negatives == "world" else ONE_RANK
        wide = [ranks.gather_rows(one) for one in (image, teacher, known)]
        student, targets, kept = (one[None] for one in wide)
        loss = two_way_contrast(
            student, targets, kept, (self.students, self.teachers), options.scale, least=1
        )
        entering = known & finite_rows(image.detach())
        past = [step.ranks.gather_rows(one)[None] for one in (image.detach(), teacher, entering)]
        self.students.push(past[0], past[2])
        self.teachers.push(past[1], past[2])
        return {self.name: options.weight * loss + image.sum() * 0.0}
