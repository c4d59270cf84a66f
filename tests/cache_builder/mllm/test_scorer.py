"""Whatever way questions are put, the answers are those of one question at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.mllm.packing import packed_mask
from cckt.cache_builder.mllm.passes import Packed, Plain, PlainSeenOnce, Stacked, Way
from cckt.cache_builder.mllm.questions import Questions
from cckt.cache_builder.mllm.scorer import Scorer, out_of_memory
from tests.cache_builder.mllm.mllm_models import CONCEPTS, build, photo

WAYS: dict[str, Way] = {
    "llava": Packed,
    "llava_chat": Packed,
    "llava_window": Packed,
    "llava_state": Stacked,
    "qwen2_vl": Packed,
    "qwen2_5_vl": Packed,
    "idefics3": Packed,
    "gemma3": Packed,
    "paligemma": PlainSeenOnce,
    "instructblip": PlainSeenOnce,
    "florence2": PlainSeenOnce,
}
"""The fastest way that fits each architecture."""

_known: dict[str, tuple[Questions, torch.Tensor]] = {}


def alone(kind: str) -> tuple[Questions, np.ndarray]:
    """Probabilities (C,) by transformers' own `generate`, a whole question at a time, none of our cutting."""
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
    yes, no = (both[:, list(ids)].sum(-1) for ids in (mllm.answers.yes, mllm.answers.no))
    return questions, (yes / (yes + no)).numpy()


@pytest.mark.parametrize("kind", WAYS)
def test_equal_to_one_question_at_a_time(kind: str) -> None:
    questions, expected = alone(kind)
    assert np.ptp(expected) > 0.05, "a model that says the same of everything proves nothing"
    scorer = Scorer(build(kind))
    about = questions.about(photo())
    found = scorer.score(about).probability
    assert scorer.way is WAYS[kind], scorer.notes
    np.testing.assert_allclose(found, expected, atol=1e-4)
    rng = np.random.default_rng(0)
    for block in (1, 2, 4):
        order = rng.permutation(len(CONCEPTS)).tolist()
        some = Scorer(build(kind), way=WAYS[kind], block=block).score(about, order)
        np.testing.assert_allclose(some.probability, expected[order], atol=1e-4)


@pytest.mark.parametrize("kind", ["llava", "llava_window", "qwen2_5_vl", "idefics3", "gemma3"])
def test_a_row_for_each_suffix_is_as_right(kind: str) -> None:
    questions, expected = alone(kind)
    found = Scorer(build(kind), way=Stacked, block=4).score(questions.about(photo()))
    np.testing.assert_allclose(found.probability, expected, atol=1e-4)


@pytest.mark.parametrize("kind", ["llava", "qwen2_vl", "gemma3"])
def test_plain_batches_are_as_right(kind: str) -> None:
    questions, expected = alone(kind)
    found = Scorer(build(kind), way=Plain, block=4).score(questions.about(photo()))
    np.testing.assert_allclose(found.probability, expected, atol=1e-4)


@pytest.mark.parametrize("kind", ["qwen2_5_vl", "idefics3"])
def test_photos_of_other_shapes(kind: str) -> None:
    """Pictures of more tokens, with positions in rows and columns or cut in tiles."""
    mllm, picture = build(kind), photo(1, (32, 128))
    questions = Questions(mllm, CONCEPTS[:4])
    about = questions.about(picture)
    wide = Scorer(mllm, way=Packed).score(about).probability
    plain = Scorer(mllm, way=Plain, block=1).score(about).probability
    np.testing.assert_allclose(wide, plain, atol=1e-4)
    assert about.prefix["input_ids"].shape[1] != questions.about(photo()).prefix["input_ids"].shape[1]


def test_models_that_cannot_share_say_why() -> None:
    scorer = Scorer(build("paligemma"))
    scorer.score(alone("paligemma")[0].about(photo()), [0])
    assert len(scorer.notes) == 3
    assert "cannot be asked by shared prefix, suffixes packed in one row: its prob" in scorer.notes[0]
    assert scorer.notes[2] == "paligemma is asked by plain batches, the picture looked at once"


def test_the_picture_is_looked_at_once() -> None:
    mllm, looks = build("instructblip"), []
    handle = mllm.model.vision_model.encoder.register_forward_pre_hook(lambda *_: looks.append(1))
    questions = alone("instructblip")[0]
    Scorer(mllm, way=PlainSeenOnce, block=2).score(questions.about(photo()))
    handle.remove()
    assert len(looks) == 1
    assert "forward" not in vars(mllm.model.vision_model)


def test_the_prefix_is_read_once() -> None:
    mllm, tokens = build("llava"), []
    layer = mllm.model.model.language_model.layers[0]
    handle = layer.register_forward_pre_hook(lambda module, args: tokens.append(args[0].shape[:2].numel()))
    questions = alone("llava")[0]
    about = questions.about(photo())
    Scorer(mllm, way=Packed, block=3).score(about)
    handle.remove()
    assert tokens[0] == about.prefix["input_ids"].shape[1]
    assert sum(tokens[1:]) == sum(questions.suffix_lengths())


def test_one_photo_that_breaks_the_words_up_otherwise() -> None:
    questions, expected = alone("llava")
    scorer = Scorer(build("llava"), way=Packed)
    found = scorer.score(questions._one_by_one(photo()), [3, 0])
    np.testing.assert_allclose(found.probability, expected[[3, 0]], atol=1e-4)
    assert scorer.way is Packed


def test_nothing_asked() -> None:
    scores = Scorer(build("llava")).score(alone("llava")[0].about(photo()), [])
    assert scores.logit.shape == scores.share.shape == scores.probability.shape == (0,)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=4),
    st.integers(1, 8),
    st.one_of(st.none(), st.integers(1, 9)),
)
def test_the_mask_of_packed_suffixes(lengths: list[int], prefix: int, window: int | None) -> None:
    kept = prefix if window is None else min(prefix, window - 1)
    mask = packed_mask(lengths, prefix, kept, window, torch.float32, torch.device("cpu"))
    tokens = [(n, prefix + k) for n, length in enumerate(lengths) for k in range(length)]
    looked_at = [(None, k) for k in range(prefix - kept, prefix)] + tokens
    assert mask.shape == (1, 1, len(tokens), len(looked_at))
    for row, (mine, at) in enumerate(tokens):
        for column, (whose, there) in enumerate(looked_at):
            sees = whose in (None, mine) and there <= at and (window is None or at - there < window)
            assert (mask[0, 0, row, column] == 0) == sees


class _Hungry(Stacked):
    """Runs out of memory over more than `most` questions."""

    most = 2

    def ask(self, rows: Any) -> torch.Tensor:
        if len(rows) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return super().ask(rows)


def test_out_of_memory_halves_the_block() -> None:
    questions, expected = alone("llava")
    scorer = Scorer(build("llava"), way=_Hungry, block=8)
    np.testing.assert_allclose(scorer.score(questions.about(photo())).probability, expected, atol=1e-4)
    assert scorer.notes == [
        "8 questions at a time did not fit the memory; going on with 4",
        "4 questions at a time did not fit the memory; going on with 2",
    ]


def test_out_of_memory_over_one_question(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Hungry, "most", 0)
    with pytest.raises(UserError, match="does not fit the memory of cpu even with one question"):
        Scorer(build("llava"), way=_Hungry).score(alone("llava")[0].about(photo()))


def test_what_is_no_want_of_memory_is_not_hidden() -> None:
    class Broken(Stacked):
        def ask(self, rows: Any) -> torch.Tensor:
            raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        Scorer(build("llava"), way=Broken).score(alone("llava")[0].about(photo()))
    assert out_of_memory(MemoryError())
    assert out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"))


def test_a_model_that_answers_otherwise_in_company(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(Plain):
        name = "a wrong way"

        def ask(self, rows: Any) -> torch.Tensor:
            return -super().ask(rows)

    monkeypatch.setattr("cckt.cache_builder.mllm.scorer.WAYS", (Wrong,))
    with pytest.raises(UserError, match="answers otherwise in company than alone"):
        Scorer(build("llava")).score(alone("llava")[0].about(photo()))


def test_block_must_be_positive() -> None:
    with pytest.raises(UserError, match="--block is 0"):
        Scorer(build("llava"), block=0)
