"""Strategies to run the questions about an image through a model.

Each returns the next-token logits of every question. `PackedSuffixes` and `BatchedSuffixes` compute the
prefix once and continue from its cache. `WholePrompts` batches whole questions; in `WholePromptsVisionOnce`
the vision tower runs once per image. All of them must equal `reference_logits`, which runs one question at a
time by the model's own `generate`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from cckt.cache_builder.mllm.load import Mllm, silence_transformers
from cckt.cache_builder.mllm.prefix_cache import (
    StrategyUnsupported,
    cache_argument,
    fork_cache,
    packed_masks,
    positions_after,
    record_positions,
)
from cckt.cache_builder.mllm.questions import ImageQuestions
from cckt.cache_builder.mllm.shared_vision import run_vision_once
from cckt.cache_builder.mllm.wrapping import Inputs


class _SharedPrefix:
    """A strategy that computes the prefix of an image once."""

    shares_prefix = True

    def __init__(self, mllm: Mllm, questions: ImageQuestions) -> None:
        self._mllm, self._questions = mllm, questions
        self.prefix = Prefix(mllm, questions)


class PackedSuffixes(_SharedPrefix):
    """All suffixes of a block in one row behind the shared prefix; no suffix attends to another.

    One copy of the prefix's keys and values serves a block, and no token is padding.
    """

    name = "a shared prefix and suffixes packed in one row"

    def next_token_logits(self, rows: Sequence[int]) -> Tensor:
        """Return the (K, V) logits after each of the K questions `rows`."""
        mllm, prefix = self._mllm, self.prefix
        suffixes = [self._questions.suffixes[row]["input_ids"] for row in rows]
        lengths = [suffix.shape[1] for suffix in suffixes]
        offsets = torch.cat([torch.arange(length) for length in lengths])[None]
        inputs: dict[str, Any] = {
            "input_ids": torch.cat(suffixes, dim=1).to(mllm.device),
            "attention_mask": packed_masks(mllm.model, prefix.cache, lengths, prefix.length),
            "position_ids": positions_after(prefix.positions, offsets.to(mllm.device)),
            cache_argument(mllm.model): fork_cache(prefix.cache),
        }
        if prefix.positions is None:
            raise StrategyUnsupported("it takes no position ids")
        last = torch.tensor(lengths).cumsum(0) - 1
        with only_last_tokens(mllm.model, torch.zeros_like(last), last):
            logits = mllm.model(**inputs, use_cache=True).logits
        return as_rows(logits, len(rows))


class BatchedSuffixes(_SharedPrefix):
    """One row per suffix of a block behind the shared prefix's keys and values, padded on the right.

    The model makes its own masks, so this fits any model that can continue from a cache.
    """

    name = "a shared prefix and one row per suffix"

    def next_token_logits(self, rows: Sequence[int]) -> Tensor:
        """Return the (K, V) logits after each of the K questions `rows`."""
        mllm, prefix = self._mllm, self.prefix
        padded, lengths = pad_and_stack(mllm, [self._questions.suffixes[row] for row in rows])
        before = torch.ones(len(rows), prefix.length, dtype=torch.long, device=mllm.device)
        inputs: dict[str, Any] = {
            "input_ids": padded["input_ids"],
            "attention_mask": torch.cat([before, _padding_mask(padded, lengths)], dim=1),
            cache_argument(mllm.model): fork_cache(prefix.cache, len(rows)),
        }
        offsets = torch.arange(padded["input_ids"].shape[1], device=mllm.device).expand(len(rows), -1)
        positions = positions_after(prefix.positions, offsets)
        if positions is not None:
            inputs["position_ids"] = positions
        with only_last_tokens(mllm.model, torch.arange(len(rows)), lengths - 1):
            logits = mllm.model(**inputs, use_cache=True).logits
        return as_rows(logits, len(rows))


class WholePrompts:
    """Whole questions in a batch, padded on the right, each with the image.

    In an encoder-decoder, whose encoder reads image and text together, this is one encoder pass per question
    and one decoder step. vision_once: the vision tower runs for the first question only.
    """

    name = "batches of whole prompts"
    shares_prefix = False
    vision_once = False

    def __init__(self, mllm: Mllm, questions: ImageQuestions) -> None:
        self._mllm, self._questions = mllm, questions
        self._vision_memory: dict[str, Any] = {}

    def next_token_logits(self, rows: Sequence[int]) -> Tensor:
        """Return the (K, V) logits after each of the K questions `rows`."""
        mllm, questions = self._mllm, self._questions
        whole = [questions.whole(row) for row in rows]
        text = [{k: v for k, v in inputs.items() if k not in questions.image_inputs} for inputs in whole]
        inputs, lengths = pad_and_stack(mllm, text)
        for key, value in questions.image_inputs.items():
            inputs[key] = on_device(mllm, value.repeat(len(rows), *[1] * (value.ndim - 1)))
        inputs.setdefault("attention_mask", _padding_mask(inputs, lengths))
        inputs["use_cache"] = False
        last = lengths - 1
        if mllm.encoder_decoder:
            start = torch.tensor([decoder_start_tokens(mllm)], device=mllm.device)
            inputs["decoder_input_ids"] = start.expand(len(rows), -1)
            last = torch.full_like(lengths, start.shape[1] - 1)
        vision: AbstractContextManager[None] = nullcontext()
        if self.vision_once:
            vision = run_vision_once(mllm.model, len(rows), self._vision_memory)
        with vision, only_last_tokens(mllm.model, torch.arange(len(rows)), last):
            logits = mllm.model(**inputs).logits
        return as_rows(logits, len(rows))


class WholePromptsVisionOnce(WholePrompts):
    """`WholePrompts`, with one run of the vision tower per image."""

    name = "batches of whole prompts, the vision tower run once"
    vision_once = True


Strategy = type[PackedSuffixes] | type[BatchedSuffixes] | type[WholePrompts]

STRATEGIES: tuple[Strategy, ...] = (PackedSuffixes, BatchedSuffixes, WholePromptsVisionOnce, WholePrompts)
"""Fastest first."""


class Prefix:
    """The image and the text before the concept, computed once.

    length: P, its tokens. cache: their keys and values. positions: their position ids, None where the model
    takes none.
    """

    def __init__(self, mllm: Mllm, questions: ImageQuestions) -> None:
        if mllm.encoder_decoder:
            raise StrategyUnsupported("its encoder reads the image together with the text")
        if not questions.shared:
            raise StrategyUnsupported("the image does not come before the text that differs")
        inputs = {
            key: on_device(mllm, value)
            for key, value in {**questions.prefix, **questions.image_inputs}.items()
        }
        self.length = questions.prefix["input_ids"].shape[1]
        zero = torch.zeros(1, dtype=torch.long)
        with record_positions(mllm.model) as seen, only_last_tokens(mllm.model, zero, zero + self.length - 1):
            output = mllm.model(**inputs, use_cache=True)
        self.cache = getattr(output, cache_argument(mllm.model))
        self.positions = seen[0] if seen else None
        if self.cache is None or self.cache.get_seq_length() != self.length:
            raise StrategyUnsupported("it returns no keys and values of its prefix")


def reference_logits(mllm: Mllm, questions: ImageQuestions, row: int) -> Tensor:
    """Return the (V,) logits after one question, by the model's own `generate`."""
    inputs: dict[str, Any] = {k: on_device(mllm, v) for k, v in questions.whole(row).items()}
    if mllm.encoder_decoder and len(decoder_start_tokens(mllm)) > 1:
        inputs["decoder_input_ids"] = torch.tensor([decoder_start_tokens(mllm)], device=mllm.device)
    with silence_transformers():
        generated = mllm.model.generate(
            **inputs,
            max_new_tokens=1,
            do_sample=False,
            num_beams=1,
            output_logits=True,
            return_dict_in_generate=True,
        )
    logits: Tensor = generated.logits[0][0]
    return logits


def decoder_start_tokens(mllm: Mllm) -> list[int]:
    """Return the tokens before the answer of an encoder-decoder: the start, and a forced first token."""
    owners = [mllm.model, getattr(mllm.model, "language_model", None)]
    settings = [getattr(owner, "generation_config", None) for owner in owners]
    settings += [mllm.model.config, mllm.model.config.get_text_config()]
    found: list[int] = []
    for name in ("decoder_start_token_id", "forced_bos_token_id"):
        values = [getattr(setting, name, None) for setting in settings]
        found += [value for value in values if isinstance(value, int)][:1]
    assert found, f"expected a decoder_start_token_id in the configuration of {mllm.name}, found none"
    return found


@contextmanager
def only_last_tokens(model: Any, rows: Tensor, columns: Tensor) -> Iterator[None]:
    """Pass only the tokens (rows[k], columns[k]) to the output layer.

    Its product of width V costs more than any other step per token, and only the last tokens are needed.
    """

    def select(module: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden = args[0]
        if hidden.ndim != 3:
            raise StrategyUnsupported("the input of its output layer is not (rows, tokens, width)")
        return (hidden[rows.to(hidden.device), columns.to(hidden.device)][:, None], *args[1:])

    head = model.get_output_embeddings()
    if head is None:
        raise StrategyUnsupported("it has no output layer")
    handle = head.register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()


def pad_and_stack(mllm: Mllm, rows: Sequence[Inputs]) -> tuple[dict[str, Any], Tensor]:
    """Pad each key of K inputs (1, S_k) on the right and stack them to (K, S). Also return (K,) lengths."""
    candidates = (mllm.tokenizer.pad_token_id, mllm.tokenizer.eos_token_id)
    pad = next((token for token in candidates if isinstance(token, int)), 0)
    stacked: dict[str, Any] = {}
    for key in rows[0]:
        parts = [row[key] for row in rows]
        width = max(part.shape[1] for part in parts)
        fill = pad if key.endswith("input_ids") else 0
        stacked[key] = torch.cat(
            [functional.pad(part, (0, width - part.shape[1]), value=fill) for part in parts]
        ).to(mllm.device)
    return stacked, torch.tensor([row["input_ids"].shape[1] for row in rows])


def on_device(mllm: Mllm, value: Tensor) -> Tensor:
    """Move a tensor of the processor to the model's device; floating-point ones to the model's dtype too."""
    return value.to(mllm.device, mllm.model.dtype if value.is_floating_point() else value.dtype)


def as_rows(logits: Tensor, rows: int) -> Tensor:
    """Return the output of the output layer as (K, V). Raises StrategyUnsupported for another size."""
    if logits.numel() != rows * logits.shape[-1]:
        raise StrategyUnsupported("its output layer ran more than once")
    return logits.reshape(rows, -1)


def _padding_mask(inputs: dict[str, Any], lengths: Tensor) -> Tensor:
    ids = inputs["input_ids"]
    return (torch.arange(ids.shape[1])[None] < lengths[:, None]).long().to(ids.device)
