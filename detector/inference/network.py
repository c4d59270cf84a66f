"""A trained detector that answers: from photos as they are to outputs, on one device, without gradients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from cckt.detector.config.config import Config
from cckt.detector.data.transforms import apply_to_image, eval_view, normalise, pad_batch
from cckt.detector.ranks.world import pick_device
from cckt.detector.runs.run_folder import Facts, evaluation_weights, load_into, load_weights, run_config
from cckt.detector.students.build import build_student
from cckt.detector.students.contract import PresentText, Student, StudentOutput
from cckt.detector.students.precision import autocast

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Network:
    """The student, its config and its device."""

    model: Student
    config: Config
    device: torch.device

    @property
    def guided(self) -> bool:
        """Whether present concepts make a difference to it."""
        return self.config.guidance.enabled

    def answer(self, photos: Sequence[Tensor], text: Tensor, present: Sequence[Rows] | None) -> StudentOutput:
        """One forward pass; only the last decoder layer is returned.

        photos: B of (3, h, w) uint8 views. text: (C, D) unit, on the device. present: for each photo the rows
        of `text` said to be in it, likeliest first; None for no guidance.
        """
        return self.ask(self.look(photos), text, present)

    def look(self, photos: Sequence[Tensor]) -> Any:
        """The first half: B of (3, h, w) uint8 views through backbone and encoder."""
        assert not self.model.training, "a network that answers is in eval mode"
        images, padding = pad_batch(photos)
        images = images.to(self.device, non_blocking=True)
        padding = None if padding is None else padding.to(self.device, non_blocking=True)
        with self._inference():
            return self.model.encode(normalise(images, padding, self.config.data), padding)

    def ask(self, seen: Any, text: Tensor, present: Sequence[Rows] | None) -> StudentOutput:
        """The second half: as `answer`, of photos that were looked at; may be asked again and again."""
        guidance = None
        if present is not None:
            guidance = PresentText.gather(text, [torch.from_numpy(one) for one in present])
        with self._inference():
            return self.model.decode(seen, text, guidance).last()

    @contextmanager
    def _inference(self) -> Iterator[None]:
        with torch.inference_mode(), autocast(self.config.train.precision, self.device):
            yield

    def view(self, photo: Image.Image) -> Tensor:
        """An RGB photo as (3, h, w) uint8 at the evaluation size."""
        pixels = torch.from_numpy(np.array(photo)).permute(2, 0, 1)
        return apply_to_image(pixels, eval_view(photo.height, photo.width, self.config.data))


def network_of(model: Student, config: Config, device: torch.device | str | None = None) -> Network:
    """A model in eval mode on a device (None: where it is)."""
    place = next(model.parameters()).device if device is None else torch.device(device)
    return Network(model.to(place).eval(), config, place)


def load_network(run: Path, device: str = "auto", weights: Path | None = None) -> tuple[Network, Facts]:
    """The detector of a run folder, and what it was made of.

    weights: a file of the run other than the one it is judged by, such as best.safetensors. Raises UserError
    where `run` is no run folder, has no weights, or weights and config do not fit.
    """
    config, facts = run_config(run), Facts.load(run)
    path = weights or evaluation_weights(run)
    model = build_student(config, facts.embedding_dim, pretrained=False)
    model.prepare_inference()
    load_into(model, load_weights(path), path)
    place = pick_device(device)
    if place.type == "cuda":  # Triton launches on the current one
        torch.cuda.set_device(place)
    return network_of(model, config, place), facts
