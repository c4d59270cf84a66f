"""What training is handed: a photo with its targets, and photos side by side for one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from cckt.detector.data.transforms import View, pad_batch
from cckt.detector.students.contract import PaddedTargets, PresentText, Targets, pad_targets


@dataclass(frozen=True)
class Sample:
    """One photo as training sees it."""

    image: Tensor
    """(3, h, w) uint8."""
    targets: Targets
    """Objects of base concepts that the view shows; concepts are rows of the base text matrix."""
    present: Tensor
    """(G,) int64, base text rows to guide with, in dealing order."""
    row: int
    """Image row of the index."""
    fault: str
    """Why the photo could not be read ("" if it could): its pixels are then zero and it has no objects."""
    view: View | None = None
    """With data.decode="cuda": what is still to be done to `image`, which is then a JPEG file, (n,) uint8."""


@dataclass(frozen=True)
class Batch:
    """Photos for one forward pass."""

    images: Tensor
    """(B, 3, H, W) uint8."""
    padding: Tensor | None
    """(B, H, W) bool, True outside the photo; None where nothing is padded."""
    targets: PaddedTargets
    """Of the B photos, padded once, here, where it costs the training process nothing."""
    present: Tensor
    """(B, G) int64, base text rows to guide with, in dealing order; -1 past the end of a photo's."""
    rows: list[int]
    """B image rows of the index."""
    faults: list[str]
    """B: why the photo could not be read, "" if it could."""

    @property
    def objects(self) -> int:
        """Targets in the batch."""
        return self.targets.objects

    def to(self, device: torch.device) -> Batch:
        """The same on a device; copies from pinned memory do not wait."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """The same in page-locked memory; the data loader calls it where a GPU is used."""
        return self._each(lambda tensor: tensor.pin_memory())

    def _each(self, act: Callable[[Tensor], Tensor]) -> Batch:
        return replace(
            self,
            images=act(self.images),
            padding=None if self.padding is None else act(self.padding),
            targets=self.targets.each(act),
            present=act(self.present),
        )

    def guidance(self, text: Tensor) -> PresentText:
        """The present concepts' rows of `text` (C, D), all on one device."""
        given = self.present >= 0
        return PresentText(text[self.present.clamp(min=0)] * given[..., None], given.sum(1))


def collate(samples: Sequence[Sample]) -> Batch:
    """One batch of samples, padded to the largest."""
    images, padding = pad_batch([sample.image for sample in samples])
    return Batch(
        images,
        padding,
        pad_targets([sample.targets for sample in samples]),
        pad_sequence([sample.present for sample in samples], batch_first=True, padding_value=-1),
        [sample.row for sample in samples],
        [sample.fault for sample in samples],
    )
