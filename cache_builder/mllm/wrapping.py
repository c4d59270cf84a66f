"""Put an image and a text into the form that one model takes: its chat template, or its image token."""

from __future__ import annotations

import threading
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from cckt.cache_builder.base.errors import UserError, brief
from cckt.cache_builder.base.untrusted.bounded import TookTooLong, bounded
from cckt.cache_builder.mllm.load import Mllm, silence_transformers

BLANK_SIDE = 224
"""Side in pixels of the image with which texts are tokenised: cheap, and valid for any model."""

TEMPLATE_SECONDS, TEMPLATE_BYTES = 20, 1 << 30
"""Bounds of filling a chat template: a stranger's program, which sees texts only but may loop or grow."""

Inputs = dict[str, Tensor]
"""Inputs of the model by name."""


class Wrapping:
    """The text before and after a question, for one model.

    template: whether they are those of the model's chat template.
    example: a question with which a form is tried.

    Raises UserError for a model whose processor puts no image into the question, and for a chat template that
    cannot be filled.
    """

    def __init__(self, mllm: Mllm, example: str) -> None:
        self._mllm = mllm
        self._lock = threading.Lock()  # fast tokenizers may not be used from two threads at once
        self.template, self._before, self._after = self._find(blank_image(), example)

    def text(self, question: str) -> str:
        """Return a question as the processor takes it, with the image token where the model needs one."""
        return f"{self._before}{question}{self._after}"

    def encode(self, image: Image.Image, text: str) -> Inputs:
        """Return the processor's tensors for an image (mode RGB) and what `text` returned, on the CPU."""
        options: dict[str, Any] = {}
        bos = self._mllm.tokenizer.bos_token
        if self.template and bos and text.startswith(bos):
            options["add_special_tokens"] = False  # the template has written it already
        with self._lock, silence_transformers():
            found = self._mllm.processor(images=[image], text=[text], return_tensors="pt", **options)
        return {key: value for key, value in found.items() if torch.is_tensor(value) and key != "labels"}

    def _find(self, blank: Image.Image, example: str) -> tuple[bool, str, str]:
        """Return (uses a chat template, text before, text after) that puts the image into the question.

        A processor without a template first gets only the question: many add their image tokens themselves,
        in the position that they were trained with.
        """
        if getattr(self._mllm.processor, "chat_template", None):
            before, after = self._template_parts()
            return True, before, after
        token = image_token(self._mllm)
        faults = []
        for before in ("", f"{token}\n") if token and token not in example else ("",):
            self.template, self._before, self._after = False, before, ""
            try:
                ids = self.encode(blank, self.text(example))["input_ids"]
            except Exception as fault:  # processors raise many types over a missing image token
                faults.append(fault)
                continue
            if not image_tokens(self._mllm) or image_tokens(self._mllm) & set(ids[0].tolist()):
                return False, before, ""
        why = f": {' '.join(str(faults[-1]).split())[:160]}" if faults else ""
        raise UserError(
            f"--mllm-model {self._mllm.name}: its processor puts no image into the question{why}; give a "
            "--mllm-prompt that names the model's image token."
        )

    def _template_parts(self) -> tuple[str, str]:
        """Return the text that the chat template writes before and after the question."""
        mark = "cckt question"
        content = [{"type": "image"}, {"type": "text", "text": mark}]
        try:
            with silence_transformers(), bounded(TEMPLATE_SECONDS, TEMPLATE_BYTES):
                text = self._mllm.processor.apply_chat_template(
                    [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
                )
        except TookTooLong:
            raise UserError(
                f"--mllm-model {self._mllm.name}: its chat template was not filled within "
                f"{TEMPLATE_SECONDS} s, expected a moment; repair the template of its processor."
            ) from None
        except Exception as fault:
            why = " ".join(str(fault).split())[:160] or type(fault).__name__
            raise UserError(
                f"--mllm-model {self._mllm.name}: its chat template could not be filled with an image and "
                f"a question ({why}); repair the template of its processor."
            ) from fault
        if not isinstance(text, str) or text.count(mark) != 1:
            raise UserError(
                f"--mllm-model {self._mllm.name}: its chat template writes {brief(text)} for the question "
                f"{mark!r}, expected the question once; repair the template of its processor."
            )
        before, after = text.split(mark)
        return before, after


def blank_image() -> Image.Image:
    """Return a grey image, whose tokens are those of any other of its size."""
    return Image.new("RGB", (BLANK_SIDE, BLANK_SIDE), (127, 127, 127))


def image_tokens(mllm: Mllm) -> set[int]:
    """Return the ids of image tokens in the text; empty for models without any."""
    found = set()
    for owner, names in (
        (mllm.model.config, ("image_token_id", "image_token_index")),
        (mllm.processor, ("image_token_id",)),
    ):
        found |= {getattr(owner, name, None) for name in names}
    return {token for token in found if isinstance(token, int)}


def image_token(mllm: Mllm) -> str | None:
    """Return the text of the image token; None for models without any."""
    for owner in (mllm.processor, mllm.tokenizer):
        token = getattr(owner, "image_token", None)
        if token is not None:
            return str(token)
    return None
