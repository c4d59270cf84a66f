"""Every strategy gives the answers of one question at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.mllm.prefix_cache import packed_mask
from cckt.cache_builder.mllm.questions import Questions
from cckt.cache_builder.mllm.scorer import Scorer, out_of_memory
from cckt.cache_builder.mllm.strategies import (
    BatchedSuffixes,
    PackedSuffixes,
    Strategy,
    WholePrompts,
    WholePromptsVisionOnce,
)
from tests.cache_builder.mllm.mllm_models import CONCEPTS, build, photo

FASTEST: dict[str, Strategy] = {
    "llava": PackedSuffixes,
    "llava_chat": PackedSuffixes,
    "llava_window": PackedSuffixes,
    "llava_state": BatchedSuffixes,
    "qwen2_vl": PackedSuffixes,
    "qwen2_5_vl": PackedSuffixes,
    "idefics3": PackedSuffixes,
    "gemma3": PackedSuffixes,
    "paligemma": WholePromptsVisionOnce,
    "instructblip": WholePromptsVisionOnce,
    "florence2": WholePromptsVisionOnce,
}
"""The fastest strategy that fits each architecture."""

_known: dict[str, tuple[Questions, torch.Tensor]] = {}


def reference(kind: str) -> tuple[Questions, np.ndarray]:
    """Probabilities (C,) by transformers' own `generate`, one whole question at a time."""
    mllm = build(kind)
    if kind not in _known:
        questions, logits = Questions(mllm, CONCEPTS), []
        for text in questions.texts:
            inputs: dict[str, Any] = questions.encode(photo(), text)
            if kind == "florence2":  # its answers begin with <bos>
                inputs["decoder_input_ids"] = torch.tensor([[2, 1]])
            made = mllm.model.generate(
                **inputs, max_new_tokens=1, do_sample=False, output_logits=True, return_dict_in_generate=True
            )
            logits.append(made.logits[0][0])
        _known[kind] = questions, torch.stack(logits)
    questions, said = _known[kind]
    both = said.softmax(-1)
    yes, no = (both[:, list(ids)].sum(-1) for ids in (mllm.yes_no.yes, mllm.yes_no.no))
    return questions, (yes / (yes + no)).numpy()


@pytest.mark.parametrize("kind", FASTEST)
def test_scores_equal_one_question_at_a_time(kind: str) -> None:
    questions, expected = reference(kind)
    assert np.ptp(expected) > 0.05, "a model with equal answers proves nothing"
    scorer = Scorer(build(kind))
    about = questions.for_image(photo())
    found = scorer.score(about).probability
    assert scorer.strategy is FASTEST[kind], scorer.notes
    np.testing.assert_allclose(found, expected, atol=1e-4)
    rng = np.random.default_rng(0)
    for block in (1, 2, 4):
        order = rng.permutation(len(CONCEPTS)).tolist()
        some = Scorer(build(kind), strategy=FASTEST[kind], block=block).score(about, order)
        np.testing.assert_allclose(some.probability, expected[order], atol=1e-4)


@pytest.mark.parametrize("kind", ["llava", "llava_window", "qwen2_5_vl", "idefics3", "gemma3"])
def test_batched_suffixes_equal_one_question_at_a_time(kind: str) -> None:
    questions, expected = reference(kind)
    found = Scorer(build(kind), strategy=BatchedSuffixes, block=4).score(questions.for_image(photo()))
    np.testing.assert_allclose(found.probability, expected, atol=1e-4)


@pytest.mark.parametrize("kind", ["llava", "qwen2_vl", "gemma3"])
def test_whole_prompts_equal_one_question_at_a_time(kind: str) -> None:
    questions, expected = reference(kind)
    found = Scorer(build(kind), strategy=WholePrompts, block=4).score(questions.for_image(photo()))
    np.testing.assert_allclose(found.probability, expected, atol=1e-4)


@pytest.mark.parametrize("kind", ["qwen2_5_vl", "idefics3"])
def test_images_of_other_shapes_get_another_prefix(kind: str) -> None:
    """Images of more tokens, with positions in rows and columns or cut into tiles."""
    mllm, picture = build(kind), photo(1, (32, 128))
    questions = Questions(mllm, CONCEPTS[:4])
    about = questions.for_image(picture)
    wide = Scorer(mllm, strategy=PackedSuffixes).score(about).probability
    plain = Scorer(mllm, strategy=WholePrompts, block=1).score(about).probability
    np.testing.assert_allclose(wide, plain, atol=1e-4)
    assert about.prefix["input_ids"].shape[1] != questions.for_image(photo()).prefix["input_ids"].shape[1]


def test_notes_say_why_a_strategy_does_not_fit() -> None:
    scorer = Scorer(build("paligemma"))
    scorer.score(reference("paligemma")[0].for_image(photo()), [0])
    assert len(scorer.notes) == 3
    assert "cannot run with a shared prefix and suffixes packed in one row: its prob" in scorer.notes[0]
    assert scorer.notes[2] == "paligemma runs with batches of whole prompts, the vision tower run once"


def test_the_vision_tower_runs_once_per_image() -> None:
    mllm, looks = build("instructblip"), []
    handle = mllm.model.vision_model.encoder.register_forward_pre_hook(lambda *_: looks.append(1))
    questions = reference("instructblip")[0]
    Scorer(mllm, strategy=WholePromptsVisionOnce, block=2).score(questions.for_image(photo()))
    handle.remove()
    assert len(looks) == 1
    assert "forward" not in vars(mllm.model.vision_model)


def test_the_prefix_is_computed_once() -> None:
    mllm, tokens = build("llava"), []
    layer = mllm.model.model.language_model.layers[0]
    handle = layer.register_forward_pre_hook(lambda module, args: tokens.append(args[0].shape[:2].numel()))
    questions = reference("llava")[0]
    about = questions.for_image(photo())
    Scorer(mllm, strategy=PackedSuffixes, block=3).score(about)
    handle.remove()
    assert tokens[0] == about.prefix["input_ids"].shape[1]
    assert sum(tokens[1:]) == sum(questions.suffix_lengths())


def test_an_image_with_other_text_tokens_is_scored_without_a_prefix() -> None:
    questions, expected = reference("llava")
    scorer = Scorer(build("llava"), strategy=PackedSuffixes)
    found = scorer.score(questions._without_prefix(photo()), [3, 0])
    np.testing.assert_allclose(found.probability, expected[[3, 0]], atol=1e-4)
    assert scorer.strategy is PackedSuffixes


def test_no_concepts_give_empty_scores() -> None:
    scores = Scorer(build("llava")).score(reference("llava")[0].for_image(photo()), [])
    assert scores.logit.shape == scores.share.shape == scores.probability.shape == (0,)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=4),
    st.integers(1, 8),
    st.one_of(st.none(), st.integers(1, 9)),
)
def test_the_mask_of_packed_suffixes_equals_counting(
    lengths: list[int], prefix: int, window: int | None
) -> None:
    kept = prefix if window is None else min(prefix, window - 1)
    mask = packed_mask(lengths, prefix, kept, window, torch.float32, torch.device("cpu"))
    tokens = [(n, prefix + k) for n, length in enumerate(lengths) for k in range(length)]
    looked_at = [(None, k) for k in range(prefix - kept, prefix)] + tokens
    assert mask.shape == (1, 1, len(tokens), len(looked_at))
    for row, (mine, at) in enumerate(tokens):
        for column, (whose, there) in enumerate(looked_at):
            sees = whose in (None, mine) and there <= at and (window is None or at - there < window)
            assert (mask[0, 0, row, column] == 0) == sees


class _Hungry(BatchedSuffixes):
    """Runs out of memory over more than `most` questions."""

    most = 2

    def next_token_logits(self, rows: Any) -> torch.Tensor:
        if len(rows) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return super().next_token_logits(rows)


def test_out_of_memory_halves_the_block() -> None:
    questions, expected = reference("llava")
    scorer = Scorer(build("llava"), strategy=_Hungry, block=8)
    np.testing.assert_allclose(scorer.score(questions.for_image(photo())).probability, expected, atol=1e-4)
    assert scorer.notes == [
        "8 questions at a time do not fit into memory; continuing with 4",
        "4 questions at a time do not fit into memory; continuing with 2",
    ]


def test_out_of_memory_with_one_question_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Hungry, "most", 0)
    with pytest.raises(UserError, match="does not fit into the memory of cpu even with one question"):
        Scorer(build("llava"), strategy=_Hungry).score(reference("llava")[0].for_image(photo()))


def test_other_errors_than_out_of_memory_are_raised() -> None:
    class Broken(BatchedSuffixes):
        def next_token_logits(self, rows: Any) -> torch.Tensor:
            raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        Scorer(build("llava"), strategy=Broken).score(reference("llava")[0].for_image(photo()))
    assert out_of_memory(MemoryError())
    assert out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"))


def test_a_model_without_a_right_strategy_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(WholePrompts):
        name = "a wrong strategy"

        def next_token_logits(self, rows: Any) -> torch.Tensor:
            return -super().next_token_logits(rows)

    monkeypatch.setattr("cckt.cache_builder.mllm.scorer.STRATEGIES", (Wrong,))
    with pytest.raises(UserError, match="every known way to batch its questions changes the answers"):
        Scorer(build("llava")).score(reference("llava")[0].for_image(photo()))


def test_block_must_be_positive() -> None:
    with pytest.raises(UserError, match="--block is 0"):
        Scorer(build("llava"), block=0)
