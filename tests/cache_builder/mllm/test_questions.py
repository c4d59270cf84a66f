"""Prompts, chat templates, cuts between tokens, and concepts that are refused."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.mllm import wrapping
from cckt.cache_builder.mllm.questions import Questions, common_prefix
from tests.cache_builder.mllm.mllm_models import CONCEPTS, build, photo, tokenizer


@pytest.mark.parametrize(
    "kind", ["llava", "llava_chat", "qwen2_5_vl", "idefics3", "paligemma", "instructblip"]
)
@pytest.mark.parametrize("concepts", [CONCEPTS, ("cat",), ("cat", "cattle", "ca"), ("teddy", "teddy bear")])
def test_prefix_and_suffix_are_the_whole_prompts_tokens(kind: str, concepts: tuple[str, ...]) -> None:
    questions = Questions(build(kind), concepts)
    picture = photo(3, (70, 50))
    about = questions.for_image(picture)
    assert about.shared
    assert len(about) == len(concepts)
    for row, text in enumerate(questions.texts):
        expected, found = questions.encode(picture, text), about.whole(row)
        assert set(found) == set(expected)
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, rtol=0, atol=0)
        assert about.suffixes[row]["input_ids"].shape[1] >= 1


def test_a_concept_may_share_a_token_with_the_prompt() -> None:
    """Without a space before the concept, the cut would be inside a token."""
    questions = Questions(build("llava"), ["s", "t", " cat"], "Question: Doe{concept} exist? Answer:")
    about = questions.for_image(photo())
    for row, text in enumerate(questions.texts):
        torch.testing.assert_close(
            about.whole(row)["input_ids"], questions.encode(photo(), text)["input_ids"]
        )


def test_an_image_after_the_text_has_no_shared_prefix() -> None:
    questions = Questions(build("llava"), CONCEPTS[:3], "Does {concept} exist? <image> Answer:")
    about = questions.for_image(photo())
    assert not about.shared
    for row, text in enumerate(questions.texts):
        torch.testing.assert_close(
            about.whole(row)["input_ids"], questions.encode(photo(), text)["input_ids"]
        )


def test_the_chat_template_of_a_model_is_used() -> None:
    chat = Questions(build("llava_chat"), ["cat"], "Is there a {concept}?")
    assert chat.template
    assert chat.texts == ["user: <image>Is there a cat?\nassistant:"]
    assert chat.recipe() == {"prompt": "Is there a {concept}?", "chat_template": True}
    plain = Questions(build("llava"), ["cat"], "Is there a {concept}? {other}")
    assert plain.texts == ["<image>\nIs there a cat? {other}"]
    assert not plain.template


def test_names_are_written_as_words() -> None:
    assert "Does bow (weapon) exist" in Questions(build("llava"), ["bow_(weapon)"]).texts[0]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), min_size=1, max_size=5))
def test_common_prefix(rows: list[list[int]]) -> None:
    length = common_prefix(rows)
    assert all(len(row) > length for row in rows)
    assert all(row[:length] == rows[0][:length] for row in rows)
    longer = length + 1
    assert any(len(row) <= longer for row in rows) or any(row[:longer] != rows[0][:longer] for row in rows)


@pytest.mark.parametrize(
    ("concepts", "prompt", "words"),
    [
        (["cat"], "Is there a cat?", "--mllm-prompt 'Is there a cat\\?' has no {concept}"),
        (["cat", "<image>"], "{concept}?", "concept 1 .* has '<image>', a special token of llava"),
        (["<eos> cat"], "{concept}?", "has '<eos>', a special token of llava"),
        (["cat", "d\x00g"], "{concept}?", r"concept 1 \('d\\x00g'\) has the character U\+0000"),
        (["\ud800"], "{concept}?", "has the character U\\+D800"),
        (["_"], "{concept}?", "concept 0 .'_'. has no name"),
        ([], "{concept}?", "empty vocabulary"),
    ],
)
def test_concepts_and_prompts_that_are_refused(concepts: list[str], prompt: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        Questions(build("llava"), concepts, prompt)


def test_names_of_any_language_are_accepted() -> None:
    names = ["crème brûlée", "猫", "кот", "🐱", "mo‌bile"]
    assert len(Questions(build("llava"), names).texts) == 5


def test_a_template_that_cannot_be_filled_is_reported() -> None:
    mllm = build("llava")

    class Strict:
        chat_template = "strict"
        image_processor = mllm.processor.image_processor

        def apply_chat_template(self, *args: Any, **options: Any) -> str:
            raise ValueError("content must be a string")

    with pytest.raises(
        UserError, match=r"its chat template could not be filled with .* .content must be a string"
    ):
        Questions(dataclasses.replace(mllm, processor=Strict()), ["cat"])


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
            "was not filled within 1 s",
        ),
        ("{{ 9 ** (9 ** 9) }}", "was not filled within 1 s"),
        ("{{ 'a' * 10 ** 10 }}", r"could not be filled .*\(MemoryError"),
        ("{% include 'other' %}", "could not be filled"),
        ("{{ ''.__class__.__mro__ }}", "could not be filled"),
        ("{% for", "could not be filled"),
        ("{{ messages }}" * 2, "expected the question once"),
    ],
)
def test_a_hostile_chat_template_is_refused(
    template: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wrapping, "TEMPLATE_SECONDS", 1)
    mllm = build("llava_chat")
    monkeypatch.setattr(mllm.processor, "chat_template", template)
    began = time.monotonic()
    with pytest.raises(UserError, match=f"its chat template .*{message}"):
        Questions(mllm, ["cat"])
    assert time.monotonic() - began < 60


def test_a_processor_that_puts_no_image_in_is_refused() -> None:
    class Blind:
        image_token_id = 4

        def __call__(self, **inputs: Any) -> dict[str, Any]:
            return {"input_ids": torch.tensor([[7, 8, 9]])}

    with pytest.raises(UserError, match="its processor puts no image into the question"):
        Questions(dataclasses.replace(build("llava"), processor=Blind(), tokenizer=tokenizer()), ["cat"])
