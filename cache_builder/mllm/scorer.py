"""Asks a model about all concepts of a photo, in a way that fits the model and blocks that fit the memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.progress import Progress, Silent
from cckt.cache_builder.mllm.load import Mllm
from cckt.cache_builder.mllm.packing import NotShareable
from cckt.cache_builder.mllm.passes import WAYS, Packed, Plain, Stacked, Way, single
from cckt.cache_builder.mllm.questions import PhotoQuestions

TOLERANCE = {"fp32": 1e-4, "fp16": 0.02, "bf16": 0.08}
"""How far a probability may be from that of one question at a time: what the dtype's rounding does alone."""

ROWS = {"cpu": 16, "cuda": 64, "mps": 16}
"""Questions a block where each has a row of its own."""


@dataclass(frozen=True)
class Scores:
    """What a model said of K concepts in one photo.

    logit: (K,) float32, log P(yes) - log P(no). share: (K,) float32, P(yes) + P(no).
    """

    logit: NDArray[np.float32]
    share: NDArray[np.float32]

    @property
    def probability(self) -> NDArray[np.float32]:
        """(K,) float32, P(yes) / (P(yes) + P(no))."""
        return sigmoid(self.logit)


def sigmoid(logit: NDArray[np.floating]) -> NDArray[np.float32]:
    """1 / (1 + exp(-x)), which overflows nowhere."""
    probability: NDArray[np.float32] = (0.5 * (1.0 + np.tanh(0.5 * logit))).astype(np.float32)
    return probability


class Scorer:
    """One model's answers, photo by photo.

    way: how the questions are put; None tries the ways from the fastest on the first photo and takes the
    first that gives the probabilities of one question at a time. block: questions at a time; None chooses.
    `notes` says what was chosen and why not the faster ones.
    """

    def __init__(
        self,
        mllm: Mllm,
        *,
        way: Way | None = None,
        block: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        if block is not None and block < 1:
            raise UserError(f"--block is {block}; give at least 1 question a block, or leave it out.")
        self.mllm = mllm
        self.way = way
        self.notes: list[str] = []
        self._block = block
        self._progress = progress or Silent()

    @torch.inference_mode()
    def score(self, questions: PhotoQuestions, concepts: Sequence[int] | None = None) -> Scores:
        """What the model says of the concept rows `concepts` (all C by default), in their order.

        Raises UserError where even one question does not fit the memory.
        """
        asked = list(range(len(questions))) if concepts is None else list(concepts)
        if not asked:
            return Scores(np.zeros(0, np.float32), np.zeros(0, np.float32))
        if self.way is None:
            self.way = self._choose(questions)
        logit, share = np.zeros(len(asked), np.float32), np.zeros(len(asked), np.float32)
        # Of like length together: what is padded is padded little.
        lengths = [questions.suffixes[row]["input_ids"].shape[1] for row in asked]
        order = sorted(range(len(asked)), key=lambda k: (lengths[k], k))
        # A photo may break the words up otherwise than the first did; then it is asked without a prefix.
        broken = self.way.shares_prefix and not questions.shared
        way = self._begin(Plain if broken else self.way, questions)
        block = self._block or self._block_of(questions, max(lengths))
        at = 0
        while at < len(order):
            part = order[at : at + block]
            try:
                said, held = self.mllm.answers.read(way.ask([asked[k] for k in part]))
                logit[part], share[part] = said.cpu().numpy(), held.cpu().numpy()
            except (MemoryError, RuntimeError) as fault:
                if not out_of_memory(fault):
                    raise
                if len(part) == 1:
                    raise UserError(self._too_small()) from fault
                block = self._halve(len(part))
                continue
            at += len(part)
        return Scores(logit, share)

    def _begin(self, way: Way, questions: PhotoQuestions) -> Packed | Stacked | Plain:
        try:
            return way(self.mllm, questions)
        except (MemoryError, RuntimeError) as fault:
            if out_of_memory(fault):
                raise UserError(self._too_small()) from fault
            raise

    def _halve(self, tried: int) -> int:
        self._block = max(1, tried // 2)
        if self.mllm.device.type == "cuda":
            torch.cuda.empty_cache()
        self._tell(f"{tried} questions at a time did not fit the memory; going on with {self._block}")
        return self._block

    def _too_small(self) -> str:
        return (
            f"--mllm-model {self.mllm.name} does not fit the memory of {self.mllm.device} even with one "
            "question at a time; use --precision bf16, a smaller model or another --device."
        )

    def _tell(self, line: str) -> None:
        self.notes.append(line)
        self._progress.note(line)

    def _block_of(self, questions: PhotoQuestions, longest: int) -> int:
        """Packed: as many tokens as the prefix has, so that the mask's blind spots cost little; else rows."""
        if self.way is Packed:
            return max(1, max(256, questions.prefix["input_ids"].shape[1]) // longest)
        return ROWS.get(self.mllm.device.type, 16)

    def _choose(self, questions: PhotoQuestions) -> Way:
        """The fastest way whose probabilities are those of one question at a time, tried on a few."""
        lengths = [suffix["input_ids"].shape[1] for suffix in questions.suffixes]
        order = sorted(range(len(lengths)), key=lambda row: (lengths[row], row))
        tried = sorted({order[0], order[len(order) // 2], order[-1]}, key=order.index)
        alone = torch.stack([single(self.mllm, questions, row) for row in tried])
        expected = self.mllm.answers.read(alone)[0].sigmoid()
        for way in WAYS:
            try:
                found = self.mllm.answers.read(way(self.mllm, questions).ask(tried))[0].sigmoid()
            except NotShareable as reason:
                why = str(reason)
            except Exception as fault:  # a model may refuse masks, positions or caches in any way it likes
                if out_of_memory(fault):
                    raise UserError(self._too_small()) from fault
                why = f"{type(fault).__name__}: {' '.join(str(fault).split())[:120]}"
            else:
                difference = float((found - expected).abs().max())
                if difference <= TOLERANCE[self.mllm.dtype]:
                    self._tell(f"{self.mllm.name} is asked by {way.name}")
                    return way
                why = f"its probabilities would be off by {difference:.2g}"
            self._tell(f"{self.mllm.name} cannot be asked by {way.name}: {why}")
        raise UserError(
            f"--mllm-model {self.mllm.name} answers otherwise in company than alone, in every way that is "
            "known; use --precision fp32, or choose another model."
        )


def out_of_memory(fault: BaseException) -> bool:
    """Whether a fault is want of memory, on any device."""
    if isinstance(fault, MemoryError | torch.OutOfMemoryError):
        return True
    words = str(fault).lower()
    return isinstance(fault, RuntimeError) and ("out of memory" in words or "can't allocate memory" in words)
