"""The tokens that spell yes and no."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.mllm.yes_no_tokens import find_yes_no_tokens


class _Vocabulary:
    """Just enough of a tokenizer."""

    all_special_ids: tuple[int, ...] = (9,)

    def __init__(self, *pieces: str) -> None:
        self.pieces = pieces

    def get_vocab(self) -> dict[str, int]:
        return {piece: number for number, piece in enumerate(self.pieces)}


def test_every_spelling_of_yes_and_no_is_found() -> None:
    pieces = (
        "yes",
        "Ġyes",
        "▁Yes",
        "YES</w>",
        "ĠNo",
        "no.",
        "No,",
        "ĊNo",
        "nose",
        "yes",
        "##no",
        "eyes",
        "Ġno-",
    )
    found = find_yes_no_tokens(_Vocabulary(*dict.fromkeys(pieces)), "m")
    assert found.yes == {0: "yes", 1: " yes", 2: " Yes", 3: "YES"}
    assert found.no == {4: " No", 5: "no.", 6: "No,", 7: "\nNo"}
    assert found.summary() == "yes: 'yes', ' yes', ' Yes', 'YES'; no: ' No', 'no.', 'No,', '\\nNo'"
    assert found.recipe()["no"][0] == {"id": 4, "text": " No"}


@pytest.mark.parametrize(("pieces", "word"), [(("Ġyes", "cat"), "'no'"), (("no",), "'yes'"), ((), "'yes'")])
def test_a_missing_yes_or_no_is_refused(pieces: tuple[str, ...], word: str) -> None:
    with pytest.raises(UserError, match=f"--mllm-model m: its tokenizer has no single token for {word}"):
        find_yes_no_tokens(_Vocabulary(*pieces), "m")


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(-30, 30), min_size=6, max_size=6))
def test_compare_equals_the_formula(values: list[float]) -> None:
    tokens = find_yes_no_tokens(_Vocabulary("yes", "cat", "Ġno", "dog", "ĠYes", "No"), "m")
    logit, share = tokens.compare(torch.tensor(values))
    odds = torch.tensor(values, dtype=torch.float64).exp()
    yes, no = odds[[0, 4]].sum(), odds[[2, 5]].sum()
    assert float(logit.double().sigmoid()) == pytest.approx(float(yes / (yes + no)), abs=1e-5)
    assert float(share) == pytest.approx(float((yes + no) / odds.sum()), abs=1e-5)
