"""Score all concepts of an image, with a strategy that fits the model and blocks that fit into memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.progress import Progress, Silent
from cckt.cache_builder.mllm.load import Mllm
from cckt.cache_builder.mllm.prefix_cache import StrategyUnsupported
from cckt.cache_builder.mllm.questions import ImageQuestions
from cckt.cache_builder.mllm.strategies import (
    STRATEGIES,
    BatchedSuffixes,
    PackedSuffixes,
    Strategy,
    WholePrompts,
    reference_logits,
)

TOLERANCE = {"fp32": 1e-4, "fp16": 0.02, "bf16": 0.08}
"""Allowed difference of a probability from that of one question at a time, by dtype: rounding causes it."""

ROWS = {"cpu": 16, "cuda": 64, "mps": 16}
"""Questions per block by device, for strategies with one row per question."""


@dataclass(frozen=True)
class Scores:
    """The answers of a model about K concepts in one image.

    logit: (K,) float32, log P(yes) - log P(no). share: (K,) float32, P(yes) + P(no).
    """

    logit: NDArray[np.float32]
    share: NDArray[np.float32]

    @property
    def probability(self) -> NDArray[np.float32]:
        """(K,) float32, P(yes) / (P(yes) + P(no)) (docs/method/cckt_det.md, eq. 6)."""
        return sigmoid(self.logit)


def sigmoid(logit: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return 1 / (1 + exp(-logit)) without overflow."""
    probability: NDArray[np.float32] = (0.5 * (1.0 + np.tanh(0.5 * logit))).astype(np.float32)
    return probability


class Scorer:
    """Scores concepts with one model, image by image.

    strategy: how questions are batched. None tries the strategies on the first image, fastest first, and
        takes the first one that gives the probabilities of one question at a time.
    block: questions at a time. None: a default that is halved when memory runs out.

    `notes` holds the chosen strategy, and why faster ones do not fit.
    """

    def __init__(
        self,
        mllm: Mllm,
        *,
        strategy: Strategy | None = None,
        block: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        if block is not None and block < 1:
            raise UserError(f"--block is {block}; give at least 1 question per block, or leave it out.")
        self.mllm = mllm
        self.strategy = strategy
        self.notes: list[str] = []
        self._block = block
        self._progress = progress or Silent()

    @torch.inference_mode()
    def score(self, questions: ImageQuestions, concepts: Sequence[int] | None = None) -> Scores:
        """Return the model's answers about the concept rows `concepts`, in their order; default all C.

        Raises UserError where even one question does not fit into memory.
        """
        requested = list(range(len(questions))) if concepts is None else list(concepts)
        if not requested:
            return Scores(np.zeros(0, np.float32), np.zeros(0, np.float32))
        if self.strategy is None:
            self.strategy = self._choose(questions)
        logit, share = np.zeros(len(requested), np.float32), np.zeros(len(requested), np.float32)
        # Questions of similar length share a block, which needs little padding.
        lengths = [questions.suffixes[row]["input_ids"].shape[1] for row in requested]
        order = sorted(range(len(requested)), key=lambda k: (lengths[k], k))
        # An image may change the tokens of the text; then there is no shared prefix.
        no_prefix = self.strategy.shares_prefix and not questions.shared
        strategy = self._begin(WholePrompts if no_prefix else self.strategy, questions)
        block = self._block or self._default_block(questions, max(lengths))
        at = 0
        while at < len(order):
            part = order[at : at + block]
            try:
                found = self.mllm.yes_no.compare(strategy.next_token_logits([requested[k] for k in part]))
                logit[part], share[part] = (values.cpu().numpy() for values in found)
            except (MemoryError, RuntimeError) as fault:
                if not out_of_memory(fault):
                    raise
                if len(part) == 1:
                    raise UserError(self._too_large()) from fault
                block = self._halve(len(part))
                continue
            at += len(part)
        return Scores(logit, share)

    def _begin(
        self, strategy: Strategy, questions: ImageQuestions
    ) -> PackedSuffixes | BatchedSuffixes | WholePrompts:
        try:
            return strategy(self.mllm, questions)
        except (MemoryError, RuntimeError) as fault:
            if out_of_memory(fault):
                raise UserError(self._too_large()) from fault
            raise

    def _halve(self, tried: int) -> int:
        self._block = max(1, tried // 2)
        if self.mllm.device.type == "cuda":
            torch.cuda.empty_cache()
        self._note(f"{tried} questions at a time do not fit into memory; continuing with {self._block}")
        return self._block

    def _too_large(self) -> str:
        return (
            f"--mllm-model {self.mllm.name} does not fit into the memory of {self.mllm.device} even with one "
            "question at a time; use --precision bf16, a smaller model or another --device."
        )

    def _note(self, line: str) -> None:
        self.notes.append(line)
        self._progress.note(line)

    def _default_block(self, questions: ImageQuestions, longest: int) -> int:
        """Return the questions per block.

        Packed: as many tokens as the prefix has, so that the masked part of the attention stays small.
        """
        if self.strategy is PackedSuffixes:
            return max(1, max(256, questions.prefix["input_ids"].shape[1]) // longest)
        return ROWS.get(self.mllm.device.type, 16)

    def _choose(self, questions: ImageQuestions) -> Strategy:
        """Return the fastest strategy whose probabilities equal those of one question at a time.

        Tries three questions: the shortest, one of median length and the longest.
        """
        lengths = [suffix["input_ids"].shape[1] for suffix in questions.suffixes]
        order = sorted(range(len(lengths)), key=lambda row: (lengths[row], row))
        tried = sorted({order[0], order[len(order) // 2], order[-1]}, key=order.index)
        reference = torch.stack([reference_logits(self.mllm, questions, row) for row in tried])
        expected = self.mllm.yes_no.compare(reference)[0].sigmoid()
        for strategy in STRATEGIES:
            try:
                logits = strategy(self.mllm, questions).next_token_logits(tried)
                found = self.mllm.yes_no.compare(logits)[0].sigmoid()
            except StrategyUnsupported as fault:
                reason = str(fault)
            except Exception as fault:  # a model may reject masks, positions or caches by any exception
                if out_of_memory(fault):
                    raise UserError(self._too_large()) from fault
                reason = f"{type(fault).__name__}: {' '.join(str(fault).split())[:120]}"
            else:
                difference = float((found - expected).abs().max())
                if difference <= TOLERANCE[self.mllm.dtype]:
                    self._note(f"{self.mllm.name} runs with {strategy.name}")
                    return strategy
                reason = f"its probabilities would differ by {difference:.2g}"
            self._note(f"{self.mllm.name} cannot run with {strategy.name}: {reason}")
        raise UserError(
            f"--mllm-model {self.mllm.name}: every known way to batch its questions changes the answers; use "
            "--precision fp32, or choose another model."
        )


def out_of_memory(fault: BaseException) -> bool:
    """Return whether an exception means that memory ran out, on any device."""
    if isinstance(fault, MemoryError | torch.OutOfMemoryError):
        return True
    words = str(fault).lower()
    return isinstance(fault, RuntimeError) and ("out of memory" in words or "can't allocate memory" in words)
