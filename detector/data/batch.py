"""A training sample (an image with its targets), and a batch of them for one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from cckt.detector.data.transforms import View, pad_batch
from cckt.detector.students.contract import PresentText
from cckt.detector.students.targets import PaddedTargets, Targets, pad_targets


@dataclass(frozen=True)
class Sample:
    """One image as training sees it."""

    image: Tensor
    """(3, h, w) uint8."""
    targets: Targets
    """Objects of base concepts in the view; concepts are rows of the base text matrix."""
    present: Tensor
    """(G,) int64, rows of the base text matrix that guide the queries, in dealing order."""
    row: int
    """Image row of the index."""
    fault: str
    """Why the image could not be read ("" if it could); its pixels are then zero and it has no objects."""
    view: View | None = None
    """With data.decode="cuda": the view still to be applied to `image`, which is then a JPEG file, (n,)
    uint8."""


@dataclass(frozen=True)
class Batch:
    """Images for one forward pass."""

    images: Tensor
    """(B, 3, H, W) uint8."""
    padding: Tensor | None
    """(B, H, W) bool, True in the padding; None without padding."""
    targets: PaddedTargets
    """Of the B images; padded in the worker, where it costs the training process nothing."""
    present: Tensor
    """(B, G) int64, rows of the base text matrix that guide the queries, in dealing order; -1 in the
    padding."""
    rows: list[int]
    """B image rows of the index."""
    faults: list[str]
    """B reasons why an image could not be read, "" if it could."""

    @property
    def objects(self) -> int:
        """Number of objects in the batch."""
        return self.targets.objects

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device; copies from pinned memory are asynchronous."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """Return the batch in page-locked memory; the data loader calls it if a GPU is used."""
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, act: Callable[[Tensor], Tensor]) -> Batch:
        return replace(
            self,
            images=act(self.images),
            padding=None if self.padding is None else act(self.padding),
            targets=self.targets.map(act),
            present=act(self.present),
        )

    def guidance(self, text: Tensor) -> PresentText:
        """Gather the present concepts' rows of `text` (C, D); all on one device."""
        given = self.present >= 0
        return PresentText(text[self.present.clamp(min=0)] * given[..., None], given.sum(1))


def collate(samples: Sequence[Sample]) -> Batch:
    """Return a batch of samples, padded to the largest."""
    images, padding = pad_batch([sample.image for sample in samples])
    return Batch(
        images,
        padding,
        pad_targets([sample.targets for sample in samples]),
        pad_sequence([sample.present for sample in samples], batch_first=True, padding_value=-1),
        [sample.row for sample in samples],
        [sample.fault for sample in samples],
    )
