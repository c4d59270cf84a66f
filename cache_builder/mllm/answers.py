"""Which tokens mean yes and which mean no.

METHOD.md section 3: P(yes) / (P(yes) + P(no)), "summing over the spellings of yes and of no that are single
tokens in that tokenizer (with and without leading space, either case)".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cckt.cache_builder.base.errors import UserError

LOW_SHARE = 0.5
"""Median share of probability on yes and no under which a model is warned about."""

LEAST_SHARE = 0.05
"""Median share under which a model is refused: it answers something else."""

# Ġ and ▁ are how byte-level and SentencePiece vocabularies write a leading space, Ċ a leading line break;
# </w> is how some write a trailing one.
_SPELLING = re.compile(r"[Ġ▁Ċ\s]*(yes|no)[.,!:;]?(?:</w>)?", re.IGNORECASE)


@dataclass(frozen=True)
class Answers:
    """The single tokens that spell yes and no: id -> text, ascending by id; neither is empty."""

    yes: dict[int, str]
    no: dict[int, str]

    def recipe(self) -> dict[str, Any]:
        """As a column's recipe holds them, and as `cckt doctor` shows them."""
        return {
            word: [{"id": token, "text": text} for token, text in spelled.items()]
            for word, spelled in (("yes", self.yes), ("no", self.no))
        }

    def line(self) -> str:
        """For a person: the spellings of both."""
        return "; ".join(
            f"{word}: {', '.join(repr(text) for text in spelled.values())}"
            for word, spelled in (("yes", self.yes), ("no", self.no))
        )

    def read(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """(..., V) next-token logits -> (...,) log P(yes) - log P(no), and (...,) P(yes) + P(no), float32."""
        logits = logits.float()
        yes = logits[..., list(self.yes)].logsumexp(-1)
        no = logits[..., list(self.no)].logsumexp(-1)
        return yes - no, (torch.logaddexp(yes, no) - logits.logsumexp(-1)).exp()


def find_answers(tokenizer: Any, name: str) -> Answers:
    """All spellings of yes and no in a tokenizer's vocabulary.

    `name` is the model's, for the UserError that tells that it has no single token for one of them.
    """
    found: dict[str, dict[int, str]] = {"yes": {}, "no": {}}
    special = set(tokenizer.all_special_ids)
    for piece, token in sorted(tokenizer.get_vocab().items(), key=lambda entry: entry[1]):
        match = _SPELLING.fullmatch(piece)
        if match and token not in special:
            found[match[1].lower()][token] = _shown(piece)
    for word, spelled in found.items():
        if not spelled:
            raise UserError(
                f"--mllm-model {name}: its tokenizer has no single token for {word!r} in any spelling, "
                "expected at least one for yes and one for no; choose a model whose tokenizer has them."
            )
    return Answers(found["yes"], found["no"])


def _shown(piece: str) -> str:
    return piece.replace("Ġ", " ").replace("▁", " ").replace("Ċ", "\n").removesuffix("</w>")
