"""The same answers from vLLM's offline engine, for those who serve models with it: the extra `cckt[vllm]`.

The engine shares prefixes by itself (`enable_prefix_caching`: equal tokens and an equal picture are computed
once), so whole questions are sent, one token is asked for, and the log-probabilities of its likeliest tokens
come back. Written against the engine's documented interface: `LLM(model, enable_prefix_caching, max_logprobs,
limit_mm_per_prompt)`, `LLM.chat` with an `image_pil` part and `LLM.generate` with `multi_modal_data`,
`SamplingParams(temperature, max_tokens, logprobs)`, `RequestOutput.outputs[0].logprobs[0]`: token id -> an
object with `logprob`.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.mllm.answers import Answers
from cckt.cache_builder.mllm.scorer import Scores

LIKELIEST = 64
"""Tokens whose log-probabilities come back; yes and no are among them unless a model is very sure."""


class Engine:
    """A model served by vLLM.

    model: an id or folder as vLLM takes it. answers: its yes and no tokens. options go to `vllm.LLM` as they
    are (tensor_parallel_size, gpu_memory_utilization, max_model_len ...). Raises UserError without vLLM.
    """

    def __init__(self, model: str, answers: Answers, *, dtype: str = "auto", **options: Any) -> None:
        try:
            vllm = importlib.import_module("vllm")
        except ImportError as fault:
            raise UserError(
                "--backend vllm needs the package vllm, which is not installed; install cckt[vllm], or "
                "leave the option out."
            ) from fault
        self.model = model
        self._answers = answers
        self._engine = vllm.LLM(
            model=model,
            dtype=dtype,
            enable_prefix_caching=True,
            max_logprobs=LIKELIEST,
            limit_mm_per_prompt={"image": 1},
            **options,
        )
        self._one_token = vllm.SamplingParams(temperature=0.0, max_tokens=1, logprobs=LIKELIEST)

    def score(self, photo: Image.Image, questions: Sequence[str], *, template: bool) -> Scores:
        """What the model says to K questions about a photo (mode RGB).

        questions: with `template` the bare questions, which the engine wraps in the model's chat template;
        else whole prompts with the model's picture token where it wants one.
        """
        if not questions:
            return Scores(np.zeros(0, np.float32), np.zeros(0, np.float32))
        if template:
            found = self._engine.chat(
                [_conversation(photo, question) for question in questions], self._one_token, use_tqdm=False
            )
        else:
            prompts = [{"prompt": question, "multi_modal_data": {"image": photo}} for question in questions]
            found = self._engine.generate(prompts, self._one_token, use_tqdm=False)
        read = [self._read(request.outputs[0].logprobs[0]) for request in found]
        logit, share = zip(*read, strict=True)
        return Scores(np.array(logit, np.float32), np.array(share, np.float32))

    def _read(self, likeliest: Mapping[int, Any]) -> tuple[float, float]:
        """(log P(yes) - log P(no), P(yes) + P(no)) from the likeliest tokens' log-probabilities.

        A word none of whose tokens came back is at most as likely as the least likely that did; it is taken
        as that, and does not count in the share.
        """
        said = {token: float(entry.logprob) for token, entry in likeliest.items()}
        least = min(said.values())
        sums, share = [], 0.0
        for spelled in (self._answers.yes, self._answers.no):
            mass = sum(math.exp(said[token]) for token in spelled if token in said)
            share += mass
            sums.append(math.log(mass) if mass > 0 else least)
        return sums[0] - sums[1], share


def _conversation(photo: Image.Image, question: str) -> list[dict[str, Any]]:
    content = [{"type": "image_pil", "image_pil": photo}, {"type": "text", "text": question}]
    return [{"role": "user", "content": content}]
