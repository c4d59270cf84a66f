"""Use a trained detector: any photo, any vocabulary.

The detector never loads a teacher. Text embeddings and priors come from whoever has one: a `Guide` (the
command line makes it from a teacher), or arrays.
"""

from __future__ import annotations

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
from cckt.cache_builder.photos import BadPhoto, load_photo, to_rgb
from cckt.cache_builder.presence import choose_present
from cckt.cache_builder.vocabulary import Vocabulary
from cckt.detector.config.config import InferenceConfig
from cckt.detector.config.dataclass_io import choices
from cckt.detector.inference.network import Network, load_network
from cckt.detector.inference.prediction import Prediction
from cckt.detector.inference.scoring import scores_as, top_detections
from cckt.detector.inference.vocabulary import Floats, Guide, rows_of, unit_text, with_splits
from cckt.detector.runs.run_folder import Facts, evaluation_figures

Photo = str | Path | Image.Image


class Detector:
    """A trained run, ready to be asked.

    `Detector.load(run, guide=guide).predict(["photo.jpg"], "forklift, pallet, tv|television")`
    """

    def __init__(
        self, network: Network, facts: Facts, guide: Guide | None = None, threshold: float = 0.5
    ) -> None:
        """Raises UserError where the guide's teacher is not the run's."""
        self.network, self.facts, self.guide, self.threshold = network, facts, guide, threshold
        expected = facts.taught_by
        if guide is not None and expected and guide.weight_digest != expected["weight_digest"]:
            raise UserError(
                f"--teacher {guide.name} has the weights {guide.weight_digest}, but the run learnt from "
                f"{expected['name']} ({expected['weight_digest']}); give that teacher."
            )

    @classmethod
    def load(
        cls, run: Path | str, device: str = "auto", *, guide: Guide | None = None, weights: Path | None = None
    ) -> Self:
        """Open a run folder. device: "auto", "cpu", "cuda", "cuda:1", "mps". weights: other than the judged
        ones.

        threshold becomes the score that the run's own evaluation found best, where it had one. Raises
        UserError where `run` is no run folder or the guide is of another teacher.
        """
        network, facts = load_network(Path(run), device, weights)
        return cls(network, facts, guide, _threshold(Path(run)))

    def predict(
        self, images: Photo | Iterable[Photo], vocabulary: Vocabulary | str | Sequence[str], **options: Any
    ) -> list[Prediction]:
        """All of `stream`'s predictions as a list, one for each image in their order."""
        return list(self.stream(images, vocabulary, **options))

    def stream(
        self,
        images: Photo | Iterable[Photo],
        vocabulary: Vocabulary | str | Sequence[str],
        *,
        text: Floats | Tensor | None = None,
        priors: Literal["config", "guide", "none"] = "config",
        present: Sequence[str | int] | None = None,
        classification: Literal["similarity", "head", "product"] | None = None,
        restrict_to_present: bool | None = None,
        min_score: float | None = None,
        top: int | None = None,
        batch: int | None = None,
        strict: bool = True,
    ) -> Iterator[Prediction]:
        """Find the vocabulary's concepts in photos, a batch at a time; photos are read when their batch
        comes.

        images: paths, Pillow images, or one of either. vocabulary: a Vocabulary, "forklift, pallet,
        tv|television", or a list of such names; concepts whose names the run was trained on are base, the
        others novel.
        text: (C, D) unit embeddings of the vocabulary by the run's teacher; None asks the guide.
        priors: what the guide says of each photo ("guide"), nothing ("none"), or as the run was set up and a
        guide is at hand ("config"). present: concepts (names or rows) known to be there, likeliest first,
        instead of priors.
        restrict_to_present: name only concepts that the priors or `present` allow; None: as the run was set
        up, where either is at hand. classification, top: None: as the run was set up. min_score: leave out
        lower ones; None: `threshold`. strict: False turns a photo that cannot be read into a prediction with
        a fault.

        Photos of different shapes in one batch are padded, which moves scores a little; batch=1 pads nothing.

        Raises UserError for an empty vocabulary, text that is missing or does not fit, an option out of its
        range, a photo that cannot be read.
        """
        known_ways = choices(InferenceConfig, "classification")
        if classification is not None and classification not in known_ways:
            raise UserError(f"classification {classification!r}: expected one of {', '.join(known_ways)}.")
        if min_score is not None and not 0 <= min_score <= 1:
            raise UserError(f"min_score {min_score:g}: expected a number from 0 to 1.")
        for option, number in (("top", top), ("batch", batch)):
            if number is not None and number < 1:
                raise UserError(f"{option} {number}: expected at least 1.")
        words, known = self._understood(vocabulary, text)
        config = self.network.config
        use_guide = self._use_guide(priors, present is not None)
        informed = present is not None or use_guide
        if restrict_to_present and not informed:
            raise UserError(
                "restrict_to_present needs to know what is present; give a teacher for priors, or a present "
                "list."
            )
        fixed = None if present is None else rows_of(words, present)
        on_device = torch.from_numpy(known).to(self.network.device)
        floor = self.threshold if min_score is None else min_score
        inference = replace(
            config.inference,
            top=top or config.inference.top,
            classification=classification or config.inference.classification,
            restrict_to_present=informed and config.inference.restrict_to_present
            if restrict_to_present is None
            else restrict_to_present,
        )
        source = iter([images] if isinstance(images, str | Path | Image.Image) else images)
        first = 0
        while group := list(islice(source, batch or inference.batch)):
            opened = [_open(photo, strict) for photo in group]
            photos = [photo for photo, _, fault in opened if not fault]
            numbers = [first + at for at, (_, _, fault) in enumerate(opened) if not fault]
            first += len(opened)
            said = self._said(photos, known) if use_guide and photos else None
            chosen = [fixed] * len(photos) if fixed is not None else self._chosen(said, numbers)
            found = iter(self._answer(photos, words, on_device, chosen, said, inference, floor))
            for _, name, fault in opened:
                if fault:
                    yield Prediction.empty(words, (0, 0), name, fault)
                else:
                    yield replace(next(found), source=name)

    def read(
        self,
        vocabulary: Vocabulary | str | Sequence[str],
        text: Floats | Tensor | None = None,
        present: Sequence[str | int] = (),
    ) -> tuple[Vocabulary, npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """The words with this run's splits, their (C, D) unit embeddings, and the rows of those present.

        Raises UserError as `stream` does.
        """
        words, table = self._understood(vocabulary, text)
        return words, table, rows_of(words, present)

    def _understood(
        self, vocabulary: Vocabulary | str | Sequence[str], text: Floats | Tensor | None
    ) -> tuple[Vocabulary, npt.NDArray[np.float32]]:
        words = vocabulary if isinstance(vocabulary, Vocabulary) else Vocabulary.free(vocabulary)
        words = with_splits(words, self.facts.annotated)
        return words, unit_text(words, text, self.guide, self.facts)

    def _answer(
        self,
        photos: list[Image.Image],
        words: Vocabulary,
        text: Tensor,
        present: list[npt.NDArray[np.int64]] | None,
        said: npt.NDArray[np.float32] | None,
        inference: InferenceConfig,
        floor: float,
    ) -> list[Prediction]:
        if not photos:
            return []
        network = self.network
        output = network.answer([network.view(photo) for photo in photos], text, present)
        scores = scores_as(inference, output, text, network.config.model.tau, present, said)
        sizes = [(photo.height, photo.width) for photo in photos]
        answer = []
        for at, found in enumerate(
            top_detections(scores, output.boxes[-1], sizes, inference.top, inference.nms)
        ):
            one = Prediction(
                found.boxes_xyxy.float().cpu().numpy(),
                found.scores.float().cpu().numpy(),
                found.concepts.cpu().numpy(),
                words,
                photos[at].size,
                present=None if present is None else tuple(int(row) for row in present[at]),
            )
            # A concept that is ruled out scores 0 and is no find, whatever the threshold.
            answer.append(one.where((one.scores >= floor) & (one.scores > 0)))
        return answer

    def _said(self, photos: list[Image.Image], text: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """(B, C): what the guide says the photos hold."""
        assert self.guide is not None
        return np.asarray(self.guide.presence(photos, text), np.float32)

    def _chosen(
        self, said: npt.NDArray[np.float32] | None, numbers: Sequence[int]
    ) -> list[npt.NDArray[np.int64]] | None:
        """What counts as present; chance is drawn by a photo's number in the stream, whatever its batch."""
        if said is None:
            return None
        prior = self.network.config.prior
        return choose_present(said, prior.rho, prior.limit, prior.fill, numbers)

    def _use_guide(self, priors: str, given: bool) -> bool:
        if priors not in ("config", "guide", "none"):
            raise UserError(f"priors {priors!r} is not known; expected config, guide or none.")
        if priors == "guide" and self.guide is None:
            raise UserError(
                "priors on the fly need the run's teacher; give --teacher, or take --priors none."
            )
        wanted = self.network.guided and self.network.config.prior.source != "none"
        return not given and self.guide is not None and (priors == "guide" or (priors == "config" and wanted))


def _open(photo: Photo, strict: bool) -> tuple[Image.Image, str, str]:
    """An RGB photo, its name and why it could not be read."""
    if not isinstance(photo, str | Path | Image.Image):
        raise UserError(
            f"a photo is a path or a Pillow image, found {type(photo).__name__}; of an array of uint8 pixels "
            "make one with PIL.Image.fromarray."
        )
    name = str(getattr(photo, "filename", "")) if isinstance(photo, Image.Image) else str(photo)
    try:
        if isinstance(photo, Image.Image):
            return to_rgb(photo), name, ""
        return load_photo(Path(photo)), name, ""
    except (BadPhoto, ValueError, OSError) as fault:
        if strict:
            raise UserError(f"{fault}; give a photo that can be opened, or leave it out.") from None
        return Image.new("RGB", (1, 1)), name, str(fault)


def _threshold(run: Path) -> float:
    """The score below which the run's evaluation found more wrong than right; 0.5 without one."""
    known = (evaluation_figures(run).get("figures") or {}).get("best_f1") or {}
    return float(known.get("score", 0.5))
