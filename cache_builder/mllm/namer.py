"""Name crops with a multimodal LLM by its greedy answer to one request (docs/method/hd_ovd.md, section 3).

The text of the request is the same for every crop, so crops of equal shape have equally many tokens and form
a batch without any padding. In a causal model the tokens of an image change all that follows them; only the
few tokens before the image could be shared between crops, and they are not worth a cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from cckt.cache_builder.base.constants import NAME_PROMPT
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.progress import Progress, Silent
from cckt.cache_builder.mllm.load import Mllm, silence_transformers
from cckt.cache_builder.mllm.scorer import ROWS, TOLERANCE, out_of_memory
from cckt.cache_builder.mllm.strategies import decoder_start_tokens, on_device
from cckt.cache_builder.mllm.wrapping import Inputs, Wrapping

MOST_TOKENS = 16
"""Tokens of an answer after which it is cut: enough for "This is a red umbrella."."""

TRIED = 3
"""Crops on which batches are compared with one crop at a time."""


class Namer:
    """Names crops with one model.

    prompt: the request. batch: crops at a time; None: a default that is halved when memory runs out.

    The first batch is compared with one crop at a time; where it gives other answers, crops are named one by
    one. `notes` says so. Raises UserError for an empty prompt and a model that takes no image with it.
    """

    def __init__(
        self,
        mllm: Mllm,
        prompt: str = NAME_PROMPT,
        *,
        batch: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        if not prompt.strip():
            raise UserError(f"--prompt is empty; give a request such as {NAME_PROMPT!r}.")
        if batch is not None and batch < 1:
            raise UserError(f"--block is {batch}; give at least 1 crop at a time, or leave it out.")
        self.mllm, self.prompt = mllm, prompt
        self.notes: list[str] = []
        self._wrapping = Wrapping(mllm, prompt)
        self._text = self._wrapping.text(prompt)
        self._batch = batch or ROWS.get(mllm.device.type, 16)
        self._progress = progress or Silent()
        self._checked = self._batch == 1

    def recipe(self) -> dict[str, Any]:
        """Return all that decides the answers, as a column's recipe holds it."""
        return {
            "model": self.mllm.recipe(),
            "prompt": self.prompt,
            "chat_template": self._wrapping.template,
            "most_tokens": MOST_TOKENS,
            "decoding": "greedy",
        }

    def inputs(self, crop: Image.Image) -> Inputs:
        """Return the model's inputs for a crop (mode RGB), on the CPU; may run in any thread."""
        return self._wrapping.encode(crop, self._text)

    @torch.inference_mode()
    def answers(self, crops: Sequence[Inputs]) -> list[str]:
        """Return the answers to crops as `inputs` returned them, without surrounding space, in their order.

        Raises UserError where even one crop does not fit into memory.
        """
        found = [""] * len(crops)
        groups: dict[tuple[Any, ...], list[int]] = {}
        for row, one in enumerate(crops):
            groups.setdefault(tuple((key, *value.shape) for key, value in one.items()), []).append(row)
        for rows in groups.values():
            at = 0
            while at < len(rows):
                part = rows[at : at + self._batch]
                if not self._checked and len(part) > 1:
                    self._check([crops[row] for row in part[:TRIED]])
                    continue
                try:
                    texts, _ = self._generate([crops[row] for row in part])
                except (MemoryError, RuntimeError) as fault:
                    if not out_of_memory(fault):
                        raise
                    self._halve(len(part), fault)
                    continue
                for row, text in zip(part, texts, strict=True):
                    found[row] = text
                at += len(part)
        return found

    def _check(self, crops: list[Inputs]) -> None:
        """Compare a batch with one crop at a time; go on with single crops if the answers differ."""
        self._checked = True
        singles = [self._generate([crop]) for crop in crops]
        try:
            texts, first = self._generate(crops)
        except Exception as fault:  # a model may reject a batch by any exception
            if out_of_memory(fault):
                self._halve(len(crops), fault)
                self._checked = False
                return
            reason = f"{type(fault).__name__}: {' '.join(str(fault).split())[:120]}"
        else:
            alone = torch.cat([one for _, one in singles])
            difference = float((first.softmax(-1) - alone.softmax(-1)).abs().max())
            same = texts == [text for (text,), _ in singles]
            if difference <= TOLERANCE[self.mllm.dtype] and (same or self.mllm.dtype != "fp32"):
                return
            reason = f"its probabilities would differ by {difference:.2g}"
        self._batch = 1
        self._note(f"{self.mllm.name} names crops one by one: {reason}")

    def _generate(self, crops: list[Inputs]) -> tuple[list[str], Tensor]:
        """Return the answers to crops of equal shapes, and (K, V) float32 logits of their first tokens."""
        mllm = self.mllm
        inputs: dict[str, Any] = {
            key: on_device(mllm, torch.cat([crop[key] for crop in crops])) for key in crops[0]
        }
        if mllm.encoder_decoder and len(decoder_start_tokens(mllm)) > 1:
            start = torch.tensor([decoder_start_tokens(mllm)], device=mllm.device)
            inputs["decoder_input_ids"] = start.expand(len(crops), -1)
        with silence_transformers():
            made = mllm.model.generate(
                **inputs,
                max_new_tokens=MOST_TOKENS,
                do_sample=False,
                num_beams=1,
                output_logits=True,
                return_dict_in_generate=True,
            )
        tokens = made.sequences[:, made.sequences.shape[1] - len(made.logits) :].tolist()
        return [self._as_text(row) for row in tokens], made.logits[0].float()

    def _as_text(self, tokens: list[int]) -> str:
        ends = _end_tokens(self.mllm)
        stop = next((at for at, token in enumerate(tokens) if token in ends), len(tokens))
        text: str = self.mllm.tokenizer.decode(tokens[:stop], skip_special_tokens=True)
        return text.strip()

    def _halve(self, tried: int, fault: BaseException) -> None:
        if tried == 1:
            raise UserError(
                f"--mllm-model {self.mllm.name} does not fit into the memory of {self.mllm.device} even with "
                "one crop at a time; use --precision bf16, a smaller model or another --device."
            ) from fault
        self._batch = max(1, tried // 2)
        if self.mllm.device.type == "cuda":
            torch.cuda.empty_cache()
        self._note(f"{tried} crops at a time do not fit into memory; continuing with {self._batch}")

    def _note(self, line: str) -> None:
        self.notes.append(line)
        self._progress.note(line)


def _end_tokens(mllm: Mllm) -> set[int]:
    """The tokens that end an answer."""
    settings = getattr(mllm.model, "generation_config", None)
    found = [getattr(settings, "eos_token_id", None), mllm.tokenizer.eos_token_id]
    flat = [one for value in found for one in (value if isinstance(value, list) else [value])]
    return {token for token in flat if isinstance(token, int)}
