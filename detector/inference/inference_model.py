"""A trained model prepared for inference: eval mode, one device, no gradients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from cckt.cache_builder.vocabulary import Vocabulary, normalise_name
from cckt.detector.config.config import Config
from cckt.detector.data.transforms import apply_to_image, eval_view, normalise, pad_batch
from cckt.detector.ranks.world import pick_device
from cckt.detector.runs.run_folder import Facts, fit_weights, judged_weights, load_weights, run_config
from cckt.detector.students.contract import DetectorOutput, PresentText
from cckt.detector.students.deformable_detr.attention import choose_kernel
from cckt.detector.students.deformable_detr.model import CCKTDetector
from cckt.detector.students.deformable_detr.transformer import Encoded
from cckt.detector.students.precision import autocast

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class InferenceModel:
    """A student in eval mode with its config and its device.

    linear_names: concept names of a linear class head, in the order of its outputs; empty for a text head.
    """

    model: CCKTDetector
    config: Config
    device: torch.device
    linear_names: tuple[str, ...] = ()

    @property
    def guided(self) -> bool:
        """Whether present concepts guide the queries (docs/method/cckt_det.md, eq. 8)."""
        return self.config.model.guidance

    def forward(
        self, images: Sequence[Tensor], text: Tensor, present: Sequence[Rows] | None
    ) -> DetectorOutput:
        """Run one forward pass and return the output of the last decoder layer.

        images: B tensors (3, h, w) uint8, as `preprocess` returns them. text: (C, D) unit, on the device.
        present: for each image the present rows of `text`, most likely first; None for no guidance.
        """
        return self.decode(self.encode(images), text, present)

    def encode(self, images: Sequence[Tensor]) -> Encoded:
        """Run backbone and encoder on B tensors (3, h, w) uint8; smaller images are padded."""
        assert not self.model.training, "expected a model in eval mode"
        batch, padding = pad_batch(images)
        batch = batch.to(self.device, non_blocking=True)
        padding = None if padding is None else padding.to(self.device, non_blocking=True)
        with self._inference():
            return self.model.encode(normalise(batch, padding, self.config.data), padding)

    def decode(self, encoded: Encoded, text: Tensor, present: Sequence[Rows] | None) -> DetectorOutput:
        """Run the decoder on encoded images and return its last layer; arguments as for `forward`.

        One encoded batch can be decoded several times, with other text or other present concepts.
        """
        rows = (
            [torch.from_numpy(one) for one in present]
            if present is not None
            else [torch.arange(0)] * encoded.memory.shape[0]
        )
        with self._inference():
            return self.model.decode(encoded, text, PresentText.gather(text, rows)).last()

    @contextmanager
    def _inference(self) -> Iterator[None]:
        with torch.inference_mode(), autocast(self.config.train.precision, self.device):
            yield

    def with_logits_of(self, output: DetectorOutput, concepts: Vocabulary) -> DetectorOutput:
        """Return the output with one class logit for each concept of a vocabulary.

        The logits of a text head already are. A linear head has one output for each concept it was trained
        on: these are found by name, and the logits of all other concepts are -inf.
        """
        if not self.linear_names:
            return output
        column = {normalise_name(name): at for at, name in enumerate(self.linear_names)}
        at = [column.get(normalise_name(name), -1) for name in concepts.names]
        source = torch.tensor(at, device=output.logits.device)
        logits = output.logits[..., source.clamp(min=0)].masked_fill(source < 0, float("-inf"))
        return DetectorOutput(output.boxes, logits, output.region)

    def preprocess(self, image: Image.Image) -> Tensor:
        """Return an RGB image as (3, h, w) uint8 at the evaluation size (`data.eval_short_side`)."""
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        return apply_to_image(pixels, eval_view(image.height, image.width, self.config.data))


def inference_model(
    model: CCKTDetector, config: Config, names: Sequence[str], device: torch.device | str | None = None
) -> InferenceModel:
    """Put a model into eval mode and on a device; None leaves it where it is.

    names: the base concepts it was trained on, in the order of the outputs of a linear class head.
    """
    place = next(model.parameters()).device if device is None else torch.device(device)
    linear = config.model.class_head == "linear"
    return InferenceModel(model.to(place).eval(), config, place, tuple(names) if linear else ())


def load_inference_model(
    run: Path, device: str = "auto", weights: Path | None = None
) -> tuple[InferenceModel, Facts]:
    """Load the detector of a run folder, and the facts of the run.

    weights: a file to load in place of the run's final weights, such as best.safetensors. Raises UserError
    when `run` is not a run folder or has no weights, or when weights and config do not fit.
    """
    config, facts = run_config(run), Facts.load(run)
    path = weights or judged_weights(run)
    classes = facts.n_classes if config.model.class_head == "linear" else 0
    model = CCKTDetector(config.model, facts.embedding_dim, classes, pretrained=False)
    if config.model.attention_kernel == "triton":  # required in training only; all kernels compute the same
        choose_kernel(model, "auto")
    fit_weights(model, load_weights(path), path)
    place = pick_device(device)
    if place.type == "cuda":  # Triton launches its kernels on the current device
        torch.cuda.set_device(place)
    return inference_model(model, config, facts.names, place), facts
