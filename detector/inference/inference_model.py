"""A trained model prepared for inference: eval mode, one device, no gradients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from cckt.cache_builder.base.device import pick_device
from cckt.cache_builder.base.errors import UserError
from cckt.detector.config.config import Config
from cckt.detector.config.train import Precision
from cckt.detector.data.transforms import apply_to_image, eval_view, normalise, pad_batch
from cckt.detector.runs.checkpoints import evaluation_weights
from cckt.detector.runs.run_folder import Facts, run_config
from cckt.detector.runs.weights import load_into, load_weights
from cckt.detector.students.backbones.cpu_backbone import prepare_for_cpu
from cckt.detector.students.build import build_student
from cckt.detector.students.contract import PresentText, Student, StudentOutput
from cckt.detector.students.precision import autocast, computed_precision

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class InferenceModel:
    """A student in eval mode, its config and its device."""

    model: Student
    config: Config
    device: torch.device

    @property
    def guided(self) -> bool:
        """Whether present concepts guide the queries (docs/method/cckt_det.md, eq. 8)."""
        return self.config.guidance.enabled

    def forward(
        self,
        images: Sequence[Tensor],
        text: Tensor,
        present: Sequence[Rows] | None,
        shape: tuple[int, int] | None = None,
    ) -> StudentOutput:
        """Run one forward pass and return the output of the last decoder layer.

        images: B tensors (3, h, w) uint8, as `preprocess` returns them. text: (C, D) unit, on the device.
        present: for each image the present rows of `text`, most likely first; None for no guidance. shape:
        as for `encode`.
        """
        return self.decode(self.encode(images, shape), text, present)

    def encode(self, images: Sequence[Tensor], shape: tuple[int, int] | None = None) -> Any:
        """Run backbone and encoder on B tensors (3, h, w) uint8; smaller images are padded.

        shape: (height, width) to which all are padded; None is that of the largest sides.
        """
        assert not self.model.training, "expected a model in eval mode"
        batch, padding = pad_batch(images, shape)
        batch = batch.to(self.device, non_blocking=True)
        padding = None if padding is None else padding.to(self.device, non_blocking=True)
        with self.inference():
            return self.model.encode(normalise(batch, padding, self.config.data), padding)

    def decode(self, encoded: Any, text: Tensor, present: Sequence[Rows] | None) -> StudentOutput:
        """Run the decoder on encoded images and return its last layer; arguments as for `forward`.

        One encoded batch can be decoded several times, with other text or other present concepts.
        """
        guidance = None
        if present is not None:
            guidance = PresentText.gather(text, [torch.from_numpy(one) for one in present])
        with self.inference():
            return self.model.decode(encoded, text, guidance).last()

    @contextmanager
    def inference(self) -> Iterator[None]:
        """Run a block without gradients, in the precision of the config."""
        with torch.inference_mode(), autocast(self.config.train.precision, self.device):
            yield

    def preprocess(self, image: Image.Image) -> Tensor:
        """Return an RGB image as (3, h, w) uint8 at the evaluation size (`data.eval_short_side`)."""
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        return apply_to_image(pixels, eval_view(image.height, image.width, self.config.data))


def inference_model(
    model: Student, config: Config, device: torch.device | str | None = None
) -> InferenceModel:
    """Put a model into eval mode and on a device; None leaves it where it is."""
    place = next(model.parameters()).device if device is None else torch.device(device)
    return InferenceModel(model.to(place).eval(), config, place)


def load_inference_model(
    run: Path,
    device: str = "auto",
    weights: Path | None = None,
    *,
    fold: bool = False,
    precision: Precision | None = None,
) -> tuple[InferenceModel, Facts]:
    """Load the detector of a run folder, and the facts of the run.

    weights: a file to load in place of the run's final weights, such as best.safetensors. fold: on a CPU,
    fold the norms of the backbone (`prepare_for_cpu`), which is faster and changes outputs by rounding;
    without it they are those of the evaluation at the end of training. precision: to compute in; None: that
    of the run. Raises UserError when `run` is not a run folder or has no weights, when weights and config do
    not fit, or when a weight is not finite.
    """
    config, facts = run_config(run), Facts.load(run)
    if precision is not None:
        config = replace(config, train=replace(config.train, precision=precision))
    path = weights or evaluation_weights(run)
    model = build_student(config, facts.embedding_dim, pretrained=False)
    model.prepare_inference()
    tensors = load_weights(path)
    load_into(model, tensors, path)
    _require_finite(tensors, path)
    place = pick_device(device)
    if place.type == "cuda":  # Triton launches its kernels on the current device
        torch.cuda.set_device(place)
    loaded = inference_model(model, config, place)
    if fold and place.type == "cpu":
        prepare_for_cpu(model, computed_precision(config.train.precision, place))
    return loaded, facts


def _require_finite(weights: Mapping[str, Tensor], source: Path) -> None:
    """Raise UserError that names the first tensor with NaN or infinity: its model would find nothing."""
    for name, value in weights.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise UserError(
                f"{source}: tensor {name} holds non-finite numbers, expected finite weights; use another "
                "checkpoint, or train again with a lower train.lr or train.precision=fp32."
            )
