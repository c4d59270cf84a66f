"""Predict on one batch of images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from cckt.cache_builder.base.cpu.tiles import TILE, Tiles
from cckt.cache_builder.presence import Rows
from cckt.cache_builder.vocabulary import Vocabulary
from cckt.detector.config.config import InferenceConfig
from cckt.detector.inference.calibration import ScoreCalibration
from cckt.detector.inference.confirm import Confirmation, CropsOfBatch, confirmed_scores
from cckt.detector.inference.inference_model import InferenceModel
from cckt.detector.inference.postprocess import best_per_object, configured_scores, top_detections
from cckt.detector.inference.prediction import Prediction


@dataclass(frozen=True)
class BatchSettings:
    """What is the same for all batches of a stream.

    words: the user's vocabulary. text: (C, D) unit embeddings on the device of the words, then of the rivals.
    base: (C,) whether a concept had annotated boxes in training. calibration, confirmation: None for none.
    multi_label: several detections of one object are kept.
    """

    words: Vocabulary
    text: Tensor
    base: Sequence[bool]
    inference: InferenceConfig
    calibration: ScoreCalibration | None = None
    confirmation: Confirmation | None = None
    multi_label: bool = False


class BatchPredictor:
    """Predicts batches of images; on a CPU several threads compute parts of a batch.

    Threads within an operator wait for each other after each of the many small ones of a detector. So each
    thread computes whole images, all padded to the shape of the batch: a prediction depends on the other
    images of its batch only through the padding, as on a GPU. Confirmation takes the batch as a whole, since
    its teacher has threads of its own.
    """

    def __init__(self, model: InferenceModel) -> None:
        self._model = model
        self._tiles: Tiles | None = None

    def predict(
        self,
        images: Sequence[Image.Image],
        settings: BatchSettings,
        present: list[Rows] | None,
        priors: npt.NDArray[np.float32] | None,
    ) -> list[Prediction]:
        """Return the predictions of RGB images, without a lowest score.

        present: for each image the rows of its present concepts, None for no guidance. priors: (B, C) of the
        words, then of the rivals; None for none.
        """
        if not images:
            return []
        threads = torch.get_num_threads()
        pixels = [self._model.preprocess(image) for image in images]
        parts = [range(len(images))]
        if self._model.device.type == "cpu" and settings.confirmation is None and len(images) >= threads > 1:
            step = min(TILE, -(-len(images) // threads))
            parts = [parts[0][at : at + step] for at in parts[0][::step]]
        shape = (max(one.shape[1] for one in pixels), max(one.shape[2] for one in pixels))

        def work(rows: range) -> list[Prediction]:
            return _predict_part(
                self._model,
                [images[row] for row in rows],
                [pixels[row] for row in rows],
                shape,
                settings,
                None if present is None else [present[row] for row in rows],
                None if priors is None else priors[rows.start : rows.stop],
            )

        if len(parts) == 1:
            return work(parts[0])
        if self._tiles is None or self._tiles.threads != threads:
            self._tiles = Tiles(threads)
        return [one for part in self._tiles.launch_all(work, parts)() for one in part]


def _predict_part(
    model: InferenceModel,
    images: Sequence[Image.Image],
    pixels: Sequence[Tensor],
    shape: tuple[int, int],
    settings: BatchSettings,
    present: list[Rows] | None,
    priors: npt.NDArray[np.float32] | None,
) -> list[Prediction]:
    """Return the predictions of a part of a batch. shape: (height, width) of the batch, in pixels."""
    words, text, inference = settings.words, settings.text, settings.inference
    output = model.forward(pixels, text, present if model.guided else None, shape)
    base = np.array(settings.base, bool)
    scores = configured_scores(inference, output, text, model.config.model.tau, present, priors, base)
    if settings.confirmation is not None:
        crops = CropsOfBatch(settings.confirmation, images, output.boxes[-1])
        scores = confirmed_scores(scores, text, crops)
    sizes = [(image.height, image.width) for image in images]
    boxes, top, nms, requested = output.boxes[-1], inference.top, inference.nms, len(words)
    if settings.multi_label:
        detections = top_detections(scores[..., :requested], boxes, sizes, top, nms)
    else:
        detections = best_per_object(scores, boxes, sizes, top, requested, nms)
    predictions = []
    for at, found in enumerate(detections):
        one = Prediction(
            found.boxes_xyxy.float().cpu().numpy(),
            found.scores.float().cpu().numpy(),
            found.concepts.cpu().numpy(),
            words,
            images[at].size,
            present=None if present is None else tuple(int(row) for row in present[at] if row < requested),
        )
        one = one.where(one.scores > 0)  # a concept that restrict_to_present drops has score 0
        predictions.append(one if settings.calibration is None else _calibrated(one, settings.calibration))
    return predictions


def _calibrated(one: Prediction, calibration: ScoreCalibration) -> Prediction:
    """Return a prediction with calibrated scores, highest first."""
    scores = calibration.apply(one.scores, one.novel)
    return replace(one, scores=scores).where(np.argsort(-scores, kind="stable"))
