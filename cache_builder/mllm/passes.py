"""Ways to put a photo's questions to a model; each gives the next-token logits of every question.

`Packed` and `Stacked` compute the prefix once and go on from its cache; `Plain` puts whole questions side by
side, with the picture looked at once where the model keeps that apart; `single` is what all of them must
equal: one question at a time, by the model's own `generate`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from cckt.cache_builder.mllm.load import Mllm, quiet
from cckt.cache_builder.mllm.packing import NotShareable, branch, following, packed_masks, positions_seen
from cckt.cache_builder.mllm.questions import Inputs, PhotoQuestions
from cckt.cache_builder.mllm.vision import seen_once


class Packed:
    """All suffixes of a block in one row behind the shared prefix, each blind to the others.

    One copy of the prefix's keys and values is enough for a block, and no token is padding.
    """

    name = "shared prefix, suffixes packed in one row"
    shares_prefix = True

    def __init__(self, mllm: Mllm, questions: PhotoQuestions) -> None:
        self._mllm, self._questions = mllm, questions
        self.prefix = Prefix(mllm, questions)

    def ask(self, rows: Sequence[int]) -> Tensor:
        """(K, V) logits after each of the K questions `rows`."""
        mllm, prefix = self._mllm, self.prefix
        suffixes = [self._questions.suffixes[row]["input_ids"] for row in rows]
        lengths = [suffix.shape[1] for suffix in suffixes]
        offsets = torch.cat([torch.arange(length) for length in lengths])[None]
        inputs: dict[str, Any] = {
            "input_ids": torch.cat(suffixes, dim=1).to(mllm.device),
            "attention_mask": packed_masks(mllm.model, prefix.cache, lengths, prefix.length),
            "position_ids": following(prefix.positions, offsets.to(mllm.device)),
        }
        if prefix.positions is None:
            raise NotShareable("its positions cannot be told to it")
        last = torch.tensor(lengths).cumsum(0) - 1
        with last_tokens(mllm.model, torch.zeros_like(last), last):
            logits = mllm.model(**inputs, past_key_values=branch(prefix.cache), use_cache=True).logits
        return flat(logits, len(rows))


class Stacked:
    """A row for each suffix of a block behind the shared prefix's keys and values, padded on the right.

    The model makes its masks itself, so this fits any that can go on from a cache.
    """

    name = "shared prefix, a row for each suffix"
    shares_prefix = True

    def __init__(self, mllm: Mllm, questions: PhotoQuestions) -> None:
        self._mllm, self._questions = mllm, questions
        self.prefix = Prefix(mllm, questions)

    def ask(self, rows: Sequence[int]) -> Tensor:
        """(K, V) logits after each of the K questions `rows`."""
        mllm, prefix = self._mllm, self.prefix
        padded, lengths = side_by_side(mllm, [self._questions.suffixes[row] for row in rows])
        before = torch.ones(len(rows), prefix.length, dtype=torch.long, device=mllm.device)
        inputs: dict[str, Any] = {
            "input_ids": padded["input_ids"],
            "attention_mask": torch.cat([before, _mask(padded, lengths)], dim=1),
        }
        offsets = torch.arange(padded["input_ids"].shape[1], device=mllm.device).expand(len(rows), -1)
        positions = following(prefix.positions, offsets)
        if positions is not None:
            inputs["position_ids"] = positions
        with last_tokens(mllm.model, torch.arange(len(rows)), lengths - 1):
            logits = mllm.model(
                **inputs, past_key_values=branch(prefix.cache, len(rows)), use_cache=True
            ).logits
        return flat(logits, len(rows))


class Plain:
    """Whole questions side by side, padded on the right, the photo repeated in each.

    For encoder-decoders, whose encoder reads picture and words together, this is one encoder pass a question
    and one decoder step. once: the tower that sees pictures works for the first question only.
    """

    name = "plain batches"
    shares_prefix = False
    once = False

    def __init__(self, mllm: Mllm, questions: PhotoQuestions) -> None:
        self._mllm, self._questions = mllm, questions
        self._memory: dict[str, Any] = {}

    def ask(self, rows: Sequence[int]) -> Tensor:
        """(K, V) logits after each of the K questions `rows`."""
        mllm, questions = self._mllm, self._questions
        whole = [questions.whole(row) for row in rows]
        words = [{k: v for k, v in inputs.items() if k not in questions.picture} for inputs in whole]
        inputs, lengths = side_by_side(mllm, words)
        for key, value in questions.picture.items():
            inputs[key] = on_device(mllm, key, value.repeat(len(rows), *[1] * (value.ndim - 1)))
        inputs.setdefault("attention_mask", _mask(inputs, lengths))
        inputs["use_cache"] = False
        last = lengths - 1
        if mllm.encoder_decoder:
            begin = torch.tensor([answer_begins(mllm)], device=mllm.device)
            inputs["decoder_input_ids"] = begin.expand(len(rows), -1)
            last = torch.full_like(lengths, begin.shape[1] - 1)
        seen: AbstractContextManager[None] = nullcontext()
        if self.once:
            seen = seen_once(mllm.model, len(rows), self._memory)
        with seen, last_tokens(mllm.model, torch.arange(len(rows)), last):
            logits = mllm.model(**inputs).logits
        return flat(logits, len(rows))


class PlainSeenOnce(Plain):
    """`Plain`, with the picture looked at once a photo."""

    name = "plain batches, the picture looked at once"
    once = True


Way = type[Packed] | type[Stacked] | type[Plain]

WAYS: tuple[Way, ...] = (Packed, Stacked, PlainSeenOnce, Plain)
"""Fastest first."""


class Prefix:
    """The picture and the words before the concept, computed once.

    length: P, its tokens. cache: their keys and values. positions: the ids by which the model turned them.
    """

    def __init__(self, mllm: Mllm, questions: PhotoQuestions) -> None:
        if mllm.encoder_decoder:
            raise NotShareable("its encoder reads the picture together with the words")
        if not questions.shared:
            raise NotShareable("the picture does not stand before the words that differ")
        inputs = {
            key: on_device(mllm, key, value)
            for key, value in {**questions.prefix, **questions.picture}.items()
        }
        self.length = questions.prefix["input_ids"].shape[1]
        zero = torch.zeros(1, dtype=torch.long)
        with positions_seen(mllm.model) as seen, last_tokens(mllm.model, zero, zero + self.length - 1):
            self.cache = mllm.model(**inputs, use_cache=True).past_key_values
        self.positions = seen[0] if seen else None
        if self.cache is None or self.cache.get_seq_length() != self.length:
            raise NotShareable("it keeps no keys and values of its prefix")


def single(mllm: Mllm, questions: PhotoQuestions, row: int) -> Tensor:
    """(V,) logits after one question, by the model's own `generate`: what the other ways must equal."""
    inputs: dict[str, Any] = {k: on_device(mllm, k, v) for k, v in questions.whole(row).items()}
    if mllm.encoder_decoder and len(answer_begins(mllm)) > 1:
        inputs["decoder_input_ids"] = torch.tensor([answer_begins(mllm)], device=mllm.device)
    with quiet():
        made = mllm.model.generate(
            **inputs,
            max_new_tokens=1,
            do_sample=False,
            num_beams=1,
            output_logits=True,
            return_dict_in_generate=True,
        )
    logits: Tensor = made.logits[0][0]
    return logits


def answer_begins(mllm: Mllm) -> list[int]:
    """What an encoder-decoder's decoder is given before its answer: the start, and a first word if forced."""
    owners = [mllm.model, getattr(mllm.model, "language_model", None)]
    settings = [getattr(owner, "generation_config", None) for owner in owners]
    settings += [mllm.model.config, mllm.model.config.get_text_config()]
    found: list[int] = []
    for name in ("decoder_start_token_id", "forced_bos_token_id"):
        values = [getattr(setting, name, None) for setting in settings]
        found += [value for value in values if isinstance(value, int)][:1]
    assert found, f"{mllm.name} does not say what its decoder begins with"
    return found


@contextmanager
def last_tokens(model: Any, rows: Tensor, columns: Tensor) -> Iterator[None]:
    """Let the output layer see only the tokens (rows[k], columns[k]): its V-wide product is the dearest a
    token costs, and all but the last token's would be thrown away.
    """

    def pick(module: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden = args[0]
        if hidden.ndim != 3:
            raise NotShareable("its output layer takes no (rows, tokens, width)")
        return (hidden[rows.to(hidden.device), columns.to(hidden.device)][:, None], *args[1:])

    head = model.get_output_embeddings()
    if head is None:
        raise NotShareable("it has no output layer to be told of")
    handle = head.register_forward_pre_hook(pick)
    try:
        yield
    finally:
        handle.remove()


def side_by_side(mllm: Mllm, rows: Sequence[Inputs]) -> tuple[dict[str, Any], Tensor]:
    """Pad each key of K inputs (1, S_k) on the right and stack them (K, S); also (K,) tokens of each."""
    pad = next(
        (
            token
            for token in (mllm.tokenizer.pad_token_id, mllm.tokenizer.eos_token_id)
            if isinstance(token, int)
        ),
        0,
    )
    stacked: dict[str, Any] = {}
    for key in rows[0]:
        parts = [row[key] for row in rows]
        width = max(part.shape[1] for part in parts)
        fill = pad if key.endswith("input_ids") else 0
        stacked[key] = torch.cat(
            [functional.pad(part, (0, width - part.shape[1]), value=fill) for part in parts]
        ).to(mllm.device)
    return stacked, torch.tensor([row["input_ids"].shape[1] for row in rows])


def on_device(mllm: Mllm, key: str, value: Tensor) -> Tensor:
    """A tensor of the processor where the model is; pixels in the model's dtype."""
    return value.to(mllm.device, mllm.model.dtype if value.is_floating_point() else value.dtype)


def flat(logits: Tensor, rows: int) -> Tensor:
    """(K, V) of what came out of the output layer; NotShareable where the model rearranged it."""
    if logits.numel() != rows * logits.shape[-1]:
        raise NotShareable("its output layer was asked more than once")
    return logits.reshape(rows, -1)


def _mask(inputs: dict[str, Any], lengths: Tensor) -> Tensor:
    ids = inputs["input_ids"]
    return (torch.arange(ids.shape[1])[None] < lengths[:, None]).long().to(ids.device)
