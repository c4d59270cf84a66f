"""Names of crops: batches equal single crops and transformers' own generate, for many architectures."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from cckt.cache_builder.base.constants import NAME_PROMPT
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.mllm.namer import MOST_TOKENS, Namer
from tests.cache_builder.mllm.mllm_models import build, photo

KINDS = (
    "llava", "llava_chat", "llava_window", "llava_state", "qwen2_vl", "qwen2_5_vl", "idefics3", "gemma3",
    "paligemma", "instructblip", "florence2",
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_equals_single_crops_by_generate(kind: str) -> None:
    mllm = build(kind)
    crops = [photo(seed, (30, 60) if seed == 2 else (48, 40)) for seed in range(5)]
    namer = Namer(mllm, batch=4)
    inputs = [namer.inputs(crop) for crop in crops]
    found = namer.answers(inputs)
    assert namer.notes == []
    assert namer.answers(inputs) == found
    for one, answer in zip(inputs, found, strict=True):
        given: dict[str, Any] = dict(one)
        if kind == "florence2":
            given["decoder_input_ids"] = torch.tensor([[2, 1]])
        made = mllm.model.generate(
            **given, max_new_tokens=MOST_TOKENS, do_sample=False, output_logits=True,
            return_dict_in_generate=True,
        )  # fmt: skip
        tokens = made.sequences[0, -len(made.logits) :].tolist()
        tokens = tokens[: tokens.index(2)] if 2 in tokens else tokens
        assert answer == mllm.tokenizer.decode(tokens, skip_special_tokens=True).strip()
    assert len(set(found)) > 1 or kind in ("llava_window", "gemma3"), "a model with one answer proves little"


def test_no_crops_and_one_crop() -> None:
    namer = Namer(build("llava"))
    assert namer.answers([]) == []
    assert len(namer.answers([namer.inputs(photo())])) == 1
    assert namer.recipe()["prompt"] == NAME_PROMPT


def test_a_model_whose_batches_differ_names_crops_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    namer = Namer(build("llava"))
    inputs = [namer.inputs(photo(seed)) for seed in range(3)]
    alone = [namer.answers([one])[0] for one in inputs]
    original = Namer._generate

    def biased(self: Namer, crops: list[Any]) -> Any:
        texts, logits = original(self, crops)
        return (texts, logits) if len(crops) == 1 else (["wrong"] * len(crops), logits.flip(0) * 2)

    monkeypatch.setattr(Namer, "_generate", biased)
    assert namer.answers(inputs) == alone
    assert "names crops one by one: its probabilities would differ by" in namer.notes[0]


def test_memory_that_runs_out_halves_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    namer = Namer(build("llava"), batch=4)
    inputs = [namer.inputs(photo(seed)) for seed in range(4)]
    expected = namer.answers(inputs)
    original = Namer._generate
    largest = [2]

    def short(self: Namer, crops: list[Any]) -> Any:
        if len(crops) > largest[0]:
            raise MemoryError
        return original(self, crops)

    monkeypatch.setattr(Namer, "_generate", short)
    assert namer.answers(inputs) == expected
    assert namer.notes == ["4 crops at a time do not fit into memory; continuing with 2"]
    largest[0] = 0
    with pytest.raises(UserError, match="even with one crop at a time"):
        namer.answers(inputs)


def test_mistakes() -> None:
    with pytest.raises(UserError, match="--prompt is empty"):
        Namer(build("llava"), "  ")
    with pytest.raises(UserError, match="--block is 0"):
        Namer(build("llava"), batch=0)
