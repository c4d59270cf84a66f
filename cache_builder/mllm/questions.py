"""Tokenise the questions about an image, and split them into a shared prefix and suffixes.

All questions are tokenised whole, once, with a blank image. Tokenising the parts of a question would give
other tokens at the cut (" cat" and "cat" are two tokens, and "a" + "lamp" may be one). The tokens that all
questions share from the left are the prefix; the rest of each question is its suffix, at least one token. For
an image only one question is processed; the others differ by their suffixes.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from cckt.cache_builder.base.constants import PROMPT as PROMPT
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.mllm.load import Mllm
from cckt.cache_builder.mllm.wrapping import Inputs, Wrapping, blank_image, image_token, image_tokens
from cckt.cache_builder.teacher.prompts import spoken


@dataclass(frozen=True)
class ImageQuestions:
    """All C questions about one image."""

    prefix: Inputs
    """input_ids (1, P), and the inputs that are aligned with it (attention_mask, token types)."""
    suffixes: Sequence[Inputs]
    """The same keys for each question, (1, S_c)."""
    image_inputs: Inputs
    """Inputs that do not depend on the text: pixel_values and others."""
    question_inputs: Sequence[Inputs]
    """Further inputs of each question that depend on the text (InstructBLIP's Q-Former reads it too)."""
    shared: bool
    """The prefix holds the whole image, so that it can be computed once."""

    def whole(self, concept: int) -> Inputs:
        """Return the model's inputs for one whole question."""
        text = {
            key: torch.cat([value, self.suffixes[concept][key]], dim=1) for key, value in self.prefix.items()
        }
        return {**text, **self.image_inputs, **self.question_inputs[concept]}

    def __len__(self) -> int:
        return len(self.suffixes)


class Questions:
    """One question for each of C concepts, tokenised for one model.

    texts: the C questions as the processor takes them, with the image token where the model needs one.
    template: whether they are inside the chat template of the model.
    shareable: whether the image comes before the text that differs.

    Raises UserError for an empty vocabulary, a prompt without {concept}, a concept that `check_concept`
    refuses, and a model whose processor puts no image into the question.
    """

    def __init__(self, mllm: Mllm, concepts: Sequence[str], prompt: str = PROMPT) -> None:
        check_prompt(prompt)
        self.prompt = prompt
        self._mllm = mllm
        if not concepts:
            raise UserError("the index has an empty vocabulary, so there is no concept to ask about.")
        names = [spoken(name) for name in concepts]
        for row, (name, raw) in enumerate(zip(names, concepts, strict=True)):
            check_concept(name, raw, row, mllm)
        blank = blank_image()
        self._wrapping = Wrapping(mllm, prompt.replace("{concept}", "cat"))
        self.template = self._wrapping.template
        self.texts = [self._wrapping.text(prompt.replace("{concept}", name)) for name in names]
        whole = [self.encode(blank, text) for text in self.texts]
        ids = [inputs["input_ids"][0].tolist() for inputs in whole]
        self._common = common_prefix(ids)
        self._aligned = tuple(key for key in whole[0] if all(_is_aligned(inputs, key) for inputs in whole))
        self._suffixes = [{key: inputs[key][:, self._common :] for key in self._aligned} for inputs in whole]
        others = [key for key in whole[0] if key not in self._aligned and not _is_of_image(key)]
        self._question_inputs = [{key: inputs[key] for key in others} for inputs in whole]
        marks = image_tokens(mllm)
        self.shareable = not any(marks & set(row[self._common :]) for row in ids)

    def recipe(self) -> dict[str, Any]:
        """Return the prompt as a column's recipe holds it."""
        return {"prompt": self.prompt, "chat_template": self.template}

    def suffix_lengths(self) -> list[int]:
        """Return the number of tokens of each suffix."""
        return [int(suffix["input_ids"].shape[1]) for suffix in self._suffixes]

    def for_image(self, image: Image.Image) -> ImageQuestions:
        """Return the questions about an image (mode RGB) as CPU tensors."""
        first = self.encode(image, self.texts[0])
        ids, tail = first["input_ids"], self._suffixes[0]["input_ids"]
        if not self.shareable or not torch.equal(ids[:, -tail.shape[1] :], tail):
            return self._without_prefix(image)
        length = ids.shape[1] - tail.shape[1]
        of_question = self._question_inputs[0]
        of_image = {k: v for k, v in first.items() if k not in self._aligned and k not in of_question}
        prefix = {key: first[key][:, :length] for key in self._aligned}
        return ImageQuestions(prefix, self._suffixes, of_image, self._question_inputs, shared=True)

    def encode(self, image: Image.Image, text: str) -> Inputs:
        """Return the processor's tensors for an image and a whole question."""
        return self._wrapping.encode(image, text)

    def _without_prefix(self, image: Image.Image) -> ImageQuestions:
        """Return the questions, each processed whole, for an image that changes the tokens of the text."""
        whole = [self.encode(image, text) for text in self.texts]
        aligned = [key for key in whole[0] if all(_is_aligned(inputs, key) for inputs in whole)]
        of_question = [key for key in whole[0] if key not in aligned and not _is_of_image(key)]
        return ImageQuestions(
            {key: whole[0][key][:, :0] for key in aligned},
            [{key: inputs[key] for key in aligned} for inputs in whole],
            {key: value for key, value in whole[0].items() if key not in aligned and key not in of_question},
            [{key: inputs[key] for key in of_question} for inputs in whole],
            shared=False,
        )


def check_prompt(prompt: str) -> None:
    """Raise UserError unless the prompt contains {concept}."""
    if "{concept}" not in prompt:
        raise UserError(
            f"--mllm-prompt {prompt!r} has no {{concept}}; put it where the concept's name belongs, as in "
            f"{PROMPT!r}."
        )


def check_concept(name: str, raw: str, row: int, mllm: Mllm) -> None:
    """Raise UserError for a concept that would not reach the model as words.

    That is an empty name, a name with control characters, and a name with a special token of the model, which
    marks an image, a turn or an end.
    """
    odd = next((c for c in name if unicodedata.category(c) in ("Cc", "Co", "Cs", "Cn")), None)
    marks = {str(token) for token in mllm.tokenizer.all_special_tokens} | {image_token(mllm) or ""}
    mark = next((mark for mark in sorted(marks - {""}) if mark in name), None)
    if name and odd is None and mark is None:
        return
    if not name:
        found = "no name"
    elif mark is not None:
        found = f"{mark!r}, a special token of {mllm.name}"
    else:
        found = f"the character U+{ord(odd or ' '):04X}, which is no character of a language"
    raise UserError(
        f"concept {row} ({raw!r}) has {found}; expected words, rename it in the annotations and build the "
        "index again."
    )


def common_prefix(rows: Sequence[Sequence[int]]) -> int:
    """Return how many tokens all rows share from the left. At least one token of each row is left over."""
    limit = min(len(row) for row in rows) - 1
    first = rows[0]
    for at in range(limit):
        if any(row[at] != first[at] for row in rows):
            return at
    return limit


def _is_of_image(key: str) -> bool:
    return key.startswith(("pixel", "image_"))


def _is_aligned(inputs: Inputs, key: str) -> bool:
    ids = inputs["input_ids"]
    return not _is_of_image(key) and inputs[key].shape[:2] == ids.shape
