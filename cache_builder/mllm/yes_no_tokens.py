"""The tokens of a tokenizer that spell yes and no, and the prior that compares them.

Every single token counts that spells one of the words, with or without a leading space or line break and one
punctuation mark at its end, in any case (docs/method/cckt_det.md, eq. 6).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cckt.cache_builder.base.errors import UserError

LOW_SHARE = 0.5
"""Median probability of yes and no together below which a model is warned about."""

LEAST_SHARE = 0.05
"""Median probability below which a model is refused: its answers are other words."""

# Ġ and ▁ write a leading space in byte-level and SentencePiece vocabularies, Ċ a leading line break; </w>
# marks the end of a word in some others.
_SPELLING = re.compile(r"[Ġ▁Ċ\s]*(yes|no)[.,!:;]?(?:</w>)?", re.IGNORECASE)


@dataclass(frozen=True)
class YesNoTokens:
    """The single tokens that spell yes and no: id -> text, ascending by id. Neither is empty."""

    yes: dict[int, str]
    no: dict[int, str]

    def recipe(self) -> dict[str, Any]:
        """Return the tokens as a column's recipe holds them."""
        return {
            word: [{"id": token, "text": text} for token, text in spelled.items()]
            for word, spelled in (("yes", self.yes), ("no", self.no))
        }

    def summary(self) -> str:
        """Return the spellings of both words as text."""
        return "; ".join(
            f"{word}: {', '.join(repr(text) for text in spelled.values())}"
            for word, spelled in (("yes", self.yes), ("no", self.no))
        )

    def compare(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Return log P(yes) - log P(no) and P(yes) + P(no), both (...,) float32.

        logits: (..., V) of the next token.
        """
        logits = logits.float()
        yes = logits[..., list(self.yes)].logsumexp(-1)
        no = logits[..., list(self.no)].logsumexp(-1)
        return yes - no, (torch.logaddexp(yes, no) - logits.logsumexp(-1)).exp()


def find_yes_no_tokens(tokenizer: Any, name: str) -> YesNoTokens:
    """Return all spellings of yes and no in a tokenizer's vocabulary.

    name: of the model, for the message. Raises UserError where one of the words has no single token.
    """
    found: dict[str, dict[int, str]] = {"yes": {}, "no": {}}
    special = set(tokenizer.all_special_ids)
    for piece, token in sorted(tokenizer.get_vocab().items(), key=lambda entry: entry[1]):
        match = _SPELLING.fullmatch(piece)
        if match and token not in special:
            found[match[1].lower()][token] = _as_text(piece)
    for word, spelled in found.items():
        if not spelled:
            raise UserError(
                f"--mllm-model {name}: its tokenizer has no single token for {word!r} in any spelling, "
                "expected at least one for yes and one for no; choose a model whose tokenizer has them."
            )
    return YesNoTokens(found["yes"], found["no"])


def _as_text(piece: str) -> str:
    return piece.replace("Ġ", " ").replace("▁", " ").replace("Ċ", "\n").removesuffix("</w>")
