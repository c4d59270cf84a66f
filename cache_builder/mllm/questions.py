"""The questions about a photo as token ids, cut where they begin to differ.

All questions are tokenised whole, once, on a blank picture: cutting the words first and tokenising the parts
would give other tokens at the seam (" cat" and "cat" are two tokens, and "a" + "lamp" may be one). What they
share from the left is the prefix; what is left of each is its suffix, at least one token. For a photo, one
question is processed, and the others follow by exchanging suffixes.
"""

from __future__ import annotations

import threading
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from cckt.cache_builder.base.constants import PROMPT as PROMPT
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.mllm.load import Mllm, quiet
from cckt.cache_builder.teacher.prompts import spoken

BLANK = 224  # px, side of the picture on which the questions are tokenised: cheap, and any model takes it

Inputs = dict[str, Tensor]


@dataclass(frozen=True)
class PhotoQuestions:
    """All C questions about one photo.

    prefix: input_ids (1, P) and whatever is aligned with it (attention_mask, token types). suffixes: the same
    keys, (1, S_c) of each question. picture: what does not depend on the words (pixel_values ...). own: what
    else depends on the words (InstructBLIP's Q-Former reads them too), of each question.
    """

    prefix: Inputs
    suffixes: Sequence[Inputs]
    picture: Inputs
    own: Sequence[Inputs]
    shared: bool
    """Whether the prefix holds the whole picture, so that it may be computed once."""

    def whole(self, concept: int) -> Inputs:
        """The model's inputs for one question by itself."""
        text = {
            key: torch.cat([value, self.suffixes[concept][key]], dim=1) for key, value in self.prefix.items()
        }
        return {**text, **self.picture, **self.own[concept]}

    def __len__(self) -> int:
        return len(self.suffixes)


class Questions:
    """One question for each of C concepts, in one model's words and tokens.

    bare: the C questions; texts: as the processor takes them, in the chat template where there is one
    (`template`), with the picture's token where the model wants one. shareable: the picture stands before the
    words that differ.
    """

    def __init__(self, mllm: Mllm, concepts: Sequence[str], prompt: str = PROMPT) -> None:
        check_prompt(prompt)
        self.prompt = prompt
        self._mllm = mllm
        self._lock = threading.Lock()  # fast tokenizers may not be used from two threads at once
        if not concepts:
            raise UserError("there is no concept to ask about: the index has an empty vocabulary.")
        names = [spoken(name) for name in concepts]
        for row, (name, raw) in enumerate(zip(names, concepts, strict=True)):
            check_concept(name, raw, row, mllm)
        blank = Image.new("RGB", (BLANK, BLANK), (127, 127, 127))
        self.template, self._before, self._after = self._wording(blank)
        self.bare = [prompt.replace("{concept}", name) for name in names]
        self.texts = [self._text(question) for question in self.bare]
        whole = [self.encode(blank, text) for text in self.texts]
        ids = [inputs["input_ids"][0].tolist() for inputs in whole]
        self._common = common_prefix(ids)
        self._aligned = tuple(key for key in whole[0] if all(_is_aligned(inputs, key) for inputs in whole))
        self._suffixes = [{key: inputs[key][:, self._common :] for key in self._aligned} for inputs in whole]
        others = [key for key in whole[0] if key not in self._aligned and not _is_picture(key)]
        self._own = [{key: inputs[key] for key in others} for inputs in whole]
        self._images = image_tokens(mllm)
        self.shareable = not any(self._images & set(row[self._common :]) for row in ids)

    def recipe(self) -> dict[str, Any]:
        """As a column's recipe holds it."""
        return {"prompt": self.prompt, "chat_template": self.template}

    def suffix_lengths(self) -> list[int]:
        """Tokens of each suffix."""
        return [int(suffix["input_ids"].shape[1]) for suffix in self._suffixes]

    def about(self, photo: Image.Image) -> PhotoQuestions:
        """The questions about a photo (mode RGB), on the CPU."""
        first = self.encode(photo, self.texts[0])
        ids, tail = first["input_ids"], self._suffixes[0]["input_ids"]
        if not self.shareable or not torch.equal(ids[:, -tail.shape[1] :], tail):
            return self._one_by_one(photo)
        length = ids.shape[1] - tail.shape[1]
        picture = {k: v for k, v in first.items() if k not in self._aligned and k not in self._own[0]}
        prefix = {key: first[key][:, :length] for key in self._aligned}
        return PhotoQuestions(prefix, self._suffixes, picture, self._own, shared=True)

    def encode(self, photo: Image.Image, text: str) -> Inputs:
        """The processor's tensors for one photo and one whole question."""
        options: dict[str, Any] = {}
        bos = self._mllm.tokenizer.bos_token
        if self.template and bos and text.startswith(bos):
            options["add_special_tokens"] = False  # the template has said it already
        with self._lock, quiet():
            found = self._mllm.processor(images=[photo], text=[text], return_tensors="pt", **options)
        return {key: value for key, value in found.items() if torch.is_tensor(value) and key != "labels"}

    def _one_by_one(self, photo: Image.Image) -> PhotoQuestions:
        """Where the words before or after the picture change with it: every question processed by itself."""
        whole = [self.encode(photo, text) for text in self.texts]
        aligned = [key for key in whole[0] if all(_is_aligned(inputs, key) for inputs in whole)]
        own = [key for key in whole[0] if key not in aligned and not _is_picture(key)]
        return PhotoQuestions(
            {key: whole[0][key][:, :0] for key in aligned},
            [{key: inputs[key] for key in aligned} for inputs in whole],
            {key: value for key, value in whole[0].items() if key not in aligned and key not in own},
            [{key: inputs[key] for key in own} for inputs in whole],
            shared=False,
        )

    def _wording(self, blank: Image.Image) -> tuple[bool, str, str]:
        """(chat template?, text before, text after) so that the picture is in the question.

        A processor without a template is given the question alone first: many add their picture tokens
        themselves, in the place that they were trained with.
        """
        if getattr(self._mllm.processor, "chat_template", None):
            before, after = self._templated()
            return True, before, after
        token = _image_token(self._mllm)
        faults = []
        for before in ("", f"{token}\n") if token and token not in self.prompt else ("",):
            self.template, self._before, self._after = False, before, ""
            try:
                ids = self.encode(blank, self._text(self.prompt.replace("{concept}", "cat")))["input_ids"]
            except Exception as fault:  # processors raise many kinds over a missing picture token
                faults.append(fault)
                continue
            if not image_tokens(self._mllm) or image_tokens(self._mllm) & set(ids[0].tolist()):
                return False, before, ""
        why = f": {' '.join(str(faults[-1]).split())[:160]}" if faults else ""
        raise UserError(
            f"--mllm-model {self._mllm.name}: its processor puts no picture into the question{why}; give a "
            "--mllm-prompt that names the model's picture token."
        )

    def _templated(self) -> tuple[str, str]:
        """What the chat template writes before and after the question."""
        mark = "cckt question"
        content = [{"type": "image"}, {"type": "text", "text": mark}]
        try:
            with quiet():
                text = self._mllm.processor.apply_chat_template(
                    [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
                )
        except Exception as fault:
            raise UserError(
                f"--mllm-model {self._mllm.name}: its chat template could not be filled with a picture and "
                f"a question ({' '.join(str(fault).split())[:160]}); mend the template of its processor."
            ) from fault
        assert text.count(mark) == 1, text
        before, after = text.split(mark)
        return before, after

    def _text(self, question: str) -> str:
        return f"{self._before}{question}{self._after}"


def check_prompt(prompt: str) -> None:
    """UserError unless the prompt has a place for the concept."""
    if "{concept}" not in prompt:
        raise UserError(
            f"--mllm-prompt {prompt!r} has no {{concept}}; put it where the concept's name belongs, as in "
            f"{PROMPT!r}."
        )


def check_concept(name: str, raw: str, row: int, mllm: Mllm) -> None:
    """UserError for a concept that would not reach the model as words.

    That is an empty name, one with control characters, and one that holds a token by which the model marks
    pictures, turns or ends.
    """
    odd = next((c for c in name if unicodedata.category(c) in ("Cc", "Co", "Cs", "Cn")), None)
    marks = {str(token) for token in mllm.tokenizer.all_special_tokens} | {_image_token(mllm) or ""}
    mark = next((mark for mark in sorted(marks - {""}) if mark in name), None)
    if name and odd is None and mark is None:
        return
    if not name:
        found = "no name"
    elif mark is not None:
        found = f"{mark!r}, which {mllm.name} takes for a command"
    else:
        found = f"the character U+{ord(odd or ' '):04X}, which is none of any language"
    raise UserError(
        f"concept {row} ({raw!r}) has {found}; expected words, rename it in the annotations and index them "
        "anew."
    )


def common_prefix(rows: Sequence[Sequence[int]]) -> int:
    """How many tokens all rows share from the left, leaving at least one of each row over."""
    limit = min(len(row) for row in rows) - 1
    first = rows[0]
    for at in range(limit):
        if any(row[at] != first[at] for row in rows):
            return at
    return limit


def image_tokens(mllm: Mllm) -> set[int]:
    """Ids that stand for a picture in the words; empty for models that keep pictures and words apart."""
    found = set()
    for owner, names in (
        (mllm.config, ("image_token_id", "image_token_index")),
        (mllm.processor, ("image_token_id",)),
    ):
        found |= {getattr(owner, name, None) for name in names}
    return {token for token in found if isinstance(token, int)}


def _image_token(mllm: Mllm) -> str | None:
    for owner in (mllm.processor, mllm.tokenizer):
        token = getattr(owner, "image_token", None)
        if token is not None:
            return str(token)
    return None


def _is_picture(key: str) -> bool:
    return key.startswith(("pixel", "image_"))


def _is_aligned(inputs: Inputs, key: str) -> bool:
    ids = inputs["input_ids"]
    return not _is_picture(key) and inputs[key].shape[:2] == ids.shape
