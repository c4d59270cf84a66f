"""Predict with a trained detector: any image, any vocabulary.

The detector never loads a teacher. Text embeddings and priors come from a `Guide`, which the command line
makes from a teacher, or from arrays that the caller gives.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.presence import choose_present
from cckt.cache_builder.vocabulary import Vocabulary
from cckt.detector.config.config import InferenceConfig
from cckt.detector.config.dataclass_io import choices
from cckt.detector.config.inference import Classification
from cckt.detector.config.train import Precision
from cckt.detector.inference.calibration import ScoreCalibration
from cckt.detector.inference.confirm import confirmation_by
from cckt.detector.inference.inference_model import InferenceModel, load_inference_model
from cckt.detector.inference.own_evaluation import Threshold, calibration_of_run
from cckt.detector.inference.prediction import Prediction
from cckt.detector.inference.rivals import BaseText
from cckt.detector.inference.stages.open_photo import Photo, open_photo
from cckt.detector.inference.stages.predict_batch import BatchPredictor, BatchSettings
from cckt.detector.inference.stages.score_scale import ScoreScale, own_scoring
from cckt.detector.inference.stages.windows import OVERLAP, Windows, predict_in_windows
from cckt.detector.inference.vocabulary import (
    Floats,
    Guide,
    require_teacher_of_run,
    rows_of_concepts,
    unit_text,
    with_splits,
)
from cckt.detector.runs.base_text import load_base_text
from cckt.detector.runs.run_folder import Facts


class Predictor:
    """A trained run that predicts on images.

    `Predictor.load(run, guide=guide).predict(["photo.jpg"], "forklift, pallet, tv|television")`
    """

    def __init__(
        self,
        model: InferenceModel,
        facts: Facts,
        guide: Guide | None = None,
        threshold: Threshold | None = None,
        *,
        calibration: ScoreCalibration | None = None,
        confirmed: ScoreCalibration | None = None,
        base_text: npt.NDArray[np.float32] | None = None,
    ) -> None:
        """Raises UserError when the teacher of the guide is not the run's teacher.

        threshold: lowest score without a calibration. confirmed: calibration of confirmed scores. base_text:
        (C, D) unit embeddings of the base concepts; None computes them with the guide.
        """
        self.model, self.facts, self.guide = model, facts, guide
        self.scale = ScoreScale(threshold or Threshold(), calibration, confirmed)
        self._base_text = BaseText(facts, guide, base_text)
        if guide is not None:
            require_teacher_of_run(guide, facts)

    @classmethod
    def load(
        cls,
        run: Path | str,
        device: str = "auto",
        *,
        guide: Guide | None = None,
        weights: Path | None = None,
        precision: Precision | None = None,
    ) -> Self:
        """Load a run folder.

        device: "auto", "cpu", "cuda", "cuda:1", "mps". weights: a file of weights in place of the run's final
        ones. precision: to compute in; None: that of the run. Raises UserError when `run` is not a run folder
        or the guide has another teacher.
        """
        model, facts = load_inference_model(Path(run), device, weights, fold=True, precision=precision)
        predictor = cls(
            model,
            facts,
            guide,
            Threshold.of(Path(run)),
            calibration=calibration_of_run(Path(run)),
            confirmed=calibration_of_run(Path(run), confirmed=True),
            base_text=load_base_text(Path(run), facts),
        )
        predictor.scale = replace(predictor.scale, run=str(run), scoring=own_scoring(model.config))
        return predictor

    @property
    def threshold(self) -> float:
        """Lowest score that `predict` returns by default, from the run's own evaluation; 0.5 without one."""
        return self._scale().lowest(self._base_text.known)

    @property
    def notes(self) -> list[str]:
        """Sentences on what the run lacks for scores that are comparable between vocabularies."""
        return self.notes_for(0)

    def notes_for(self, confirm: int, classification: str | None = None, priors: str = "config") -> list[str]:
        """Return `notes` of scores by a classification (None: that of the run's config) with these priors.

        Others are on confirmed boxes, if `confirm` is above 0 and such were never evaluated, and on priors
        that nothing reads.
        """
        scale = self._scale(classification, priors)
        notes = scale.notes(self._base_text.known) + (scale.confirmed_notes(confirm) if confirm else [])
        if priors == "guide" and not self._reads_priors:
            notes.append(
                "nothing in this run reads priors: it has no guidance, and they neither weigh nor restrict "
                "its scores; leave out --priors, which only takes time."
            )
        return notes

    @property
    def warning(self) -> str:
        """A sentence when no detection of the run's own evaluation is correct; "" otherwise."""
        return self._scale().warning(self._base_text.known)

    @property
    def _reads_priors(self) -> bool:
        """Whether priors change what the run finds, by its options."""
        inference = self.model.config.inference
        return bool(self.model.guided or inference.prior_weight or inference.restrict_to_present)

    def _scale(
        self, classification: str | None = None, priors: str = "config", given: bool = False
    ) -> ScoreScale:
        """Return the scale of scores by a classification; None is that of the model's options.

        given: present concepts are given in place of priors, so that no score is weighed by priors.
        """
        inference = self.model.config.inference
        if not self._use_guide(priors, given):
            inference = replace(inference, prior_weight=0.0)
        return self.scale.for_scores(inference, classification)

    def predict(
        self, images: Photo | Iterable[Photo], vocabulary: Vocabulary | str | Sequence[str], **options: Any
    ) -> list[Prediction]:
        """Return the predictions of `stream` as a list, one per image, in the order of the images."""
        return list(self.stream(images, vocabulary, **options))

    def stream(
        self,
        images: Photo | Iterable[Photo],
        vocabulary: Vocabulary | str | Sequence[str],
        *,
        text: Floats | Tensor | None = None,
        priors: Literal["config", "guide", "none"] = "config",
        present: Sequence[str | int] | None = None,
        classification: Classification | None = None,
        restrict_to_present: bool | None = None,
        rivals: bool = True,
        multi_label: bool = False,
        confirm: int = 0,
        min_score: float | None = None,
        nms: float | None = None,
        top: int | None = None,
        batch: int | None = None,
        tile: int = 0,
        overlap: float = OVERLAP,
        strict: bool = True,
    ) -> Iterator[Prediction]:
        """Yield one prediction per image; images are read batch by batch.

        images: paths, Pillow images, or a single one. vocabulary: a Vocabulary, a text such as
        "forklift, pallet, tv|television", or a list of such names; concepts that the run was trained on are
        base, all others novel. text: (C, D) unit embeddings of the vocabulary by the run's teacher; None uses
        the guide.
        priors: "guide" uses the guide's priors, "none" uses none, "config" uses the guide's if there is a
        guide and the run's config uses priors. present: names or rows of the present concepts, most likely
        first, in place of priors.
        restrict_to_present: drop concepts that are not present; None is the run's config if present concepts
        are known, else False.
        rivals: let the run's base concepts that are not named compete with the vocabulary, so that a score
        does not depend on which of them are named; a region that shows a rival is no detection. Scores are
        then the probability of being correct, if the run's evaluation has a calibration. False gives the
        scores of the network among the named concepts only. multi_label: keep several detections of one
        object, of different concepts; False keeps the best.
        confirm: number of the best boxes of an image whose crops the guide embeds; the crops then decide the
        scores (`confirmed_scores`), and only these boxes are returned. 0 confirms none.
        classification, top, nms: None is the run's config. min_score: lowest score that is
        returned; None is `threshold`. batch: images per forward pass; None is the run's config. tile: side in
        pixels of the windows in which larger images are predicted too, `overlap` the share by which they
        overlap (`predict_in_windows`); 0 predicts on whole images only. strict: False turns an unreadable
        image into a prediction with a fault.

        Images of different shapes in one batch are padded, which changes scores slightly; batch=1 never pads.

        Raises UserError for an empty vocabulary, text that is missing or does not fit, an option out of
        range, and an unreadable image.
        """
        known_ways = choices(InferenceConfig, "classification")
        if classification is not None and classification not in known_ways:
            raise UserError(f"classification {classification!r}: expected one of {', '.join(known_ways)}.")
        for option, share in (("min_score", min_score), ("nms", nms)):
            if share is not None and not 0 <= share <= 1:
                raise UserError(f"{option} {share:g}: expected a number from 0 to 1.")
        for option, number in (("top", top), ("batch", batch)):
            if number is not None and number < 1:
                raise UserError(f"{option} {number}: expected at least 1.")
        words, table = self._prepared(vocabulary, text)
        source = [images] if isinstance(images, str | Path | Image.Image) else images
        if tile:
            options: dict[str, Any] = {"text": table, "priors": priors, "present": present, "top": top}
            options |= {"classification": classification, "restrict_to_present": restrict_to_present}
            options |= {"rivals": rivals, "multi_label": multi_label, "confirm": confirm}
            options |= {"min_score": min_score, "nms": nms, "batch": batch}
            yield from predict_in_windows(
                lambda crops: self.stream(crops, words, **options),
                source,
                Windows(tile, overlap),
                empty=Prediction.empty(words, (0, 0)),
                strict=strict,
                top=top or self.model.config.inference.top,
                nms=self.model.config.inference.nms if nms is None else nms,
                multi_label=multi_label,
            )
            return
        rivals = rivals and self._base_text.known
        base = [word.split == "base" for word in words]
        if rivals:
            embeddings, annotated = self._base_text.rivals_of(words)
            table, base = np.concatenate([table, embeddings]), base + annotated
        config = self.model.config
        use_guide = self._use_guide(priors, present is not None)
        informed = present is not None or use_guide
        if restrict_to_present and not informed:
            raise UserError(
                "restrict_to_present needs present concepts, and there are neither priors nor a present "
                "list; give --teacher, or present=[...]."
            )
        fixed = None if present is None else rows_of_concepts(words, present)
        scale = self._scale(classification, priors, present is not None)
        settings = BatchSettings(
            words,
            torch.from_numpy(table).to(self.model.device),
            base,
            replace(
                config.inference,
                top=top or config.inference.top,
                nms=config.inference.nms if nms is None else nms,
                classification=classification or config.inference.classification,
                restrict_to_present=informed and config.inference.restrict_to_present
                if restrict_to_present is None
                else restrict_to_present,
            ),
            scale.calibration_of(rivals, bool(confirm)),
            confirmation_by(self.guide, confirm),
            multi_label,
        )
        floor = scale.lowest(rivals, bool(confirm)) if min_score is None else min_score
        batches, waiting = BatchPredictor(self.model), iter(source)
        while group := list(islice(waiting, batch or settings.inference.batch)):
            opened = [open_photo(photo, strict) for photo in group]
            readable = [image for image, _, fault in opened if not fault]
            guided = self._guide_priors(readable, table) if use_guide and readable else None
            chosen = [fixed] * len(readable) if fixed is not None else self._chosen(guided, readable)
            predictions = batches.predict(readable, settings, chosen, guided)
            found = iter(one.where(one.scores >= floor) for one in predictions)
            for _, name, fault in opened:
                if fault:
                    yield Prediction.empty(words, (0, 0), name, fault)
                else:
                    yield replace(next(found), source=name)

    def prepare(
        self,
        vocabulary: Vocabulary | str | Sequence[str],
        text: Floats | Tensor | None = None,
        present: Sequence[str | int] = (),
    ) -> tuple[Vocabulary, npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Return the vocabulary with this run's splits, its (C, D) unit embeddings, and the present rows.

        Raises UserError as `stream` does.
        """
        words, table = self._prepared(vocabulary, text)
        return words, table, rows_of_concepts(words, present)

    def _prepared(
        self, vocabulary: Vocabulary | str | Sequence[str], text: Floats | Tensor | None
    ) -> tuple[Vocabulary, npt.NDArray[np.float32]]:
        words = vocabulary if isinstance(vocabulary, Vocabulary) else Vocabulary.free(vocabulary)
        words = with_splits(words, self.facts.annotated)
        return words, unit_text(words, text, self.guide, self.facts)

    def _guide_priors(
        self, images: list[Image.Image], text: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.float32]:
        """Return (B, C) priors of images by the guide."""
        assert self.guide is not None, "expected a guide, found None"
        return np.asarray(self.guide.presence(images, text), np.float32)

    def _chosen(
        self, priors: npt.NDArray[np.float32] | None, images: Sequence[Image.Image]
    ) -> list[npt.NDArray[np.int64]] | None:
        """Choose the present concepts (docs/method/cckt_det.md, eq. 7); None without priors.

        A random fill is seeded by the pixels, so that an image has one result wherever a stream begins.
        """
        if priors is None:
            return None
        prior = self.model.config.prior
        random = prior.fill == "random"
        numbers = [zlib.crc32(image.tobytes()) if random else 0 for image in images]
        return choose_present(priors, prior.rho, prior.limit, prior.fill, numbers)

    def _use_guide(self, priors: str, given: bool) -> bool:
        if priors not in ("config", "guide", "none"):
            raise UserError(f"priors {priors!r} is not known; expected config, guide or none.")
        if priors == "guide" and self.guide is None:
            raise UserError(
                "priors of new images need the run's teacher, and none is given; give --teacher, or --priors "
                "none."
            )
        by_config = self.model.config.prior.source != "none" and self._reads_priors
        return (
            not given and self.guide is not None and (priors == "guide" or (priors == "config" and by_config))
        )
