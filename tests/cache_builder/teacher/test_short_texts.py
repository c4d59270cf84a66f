"""Sentences without their padding: the embeddings of open_clip, whatever their lengths."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from cckt.cache_builder.teacher.clip import Teacher, load_teacher
from cckt.cache_builder.teacher.short_texts import ShortTexts
from tests.cache_builder.samples import write_teacher

TEXTS = ["a", "a photo of a cat.", "many words " * 60, "dog", "", "a photo of a dog in the scene."]


@pytest.fixture(scope="module", params=["sample", "shapeworld"])
def teacher(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Teacher:
    name = (
        "shapeworld" if request.param == "shapeworld" else write_teacher(tmp_path_factory.mktemp("teacher"))
    )
    return load_teacher(name, device="cpu")


def test_no_text_has_no_rows(teacher: Teacher) -> None:
    assert teacher.encode_texts_quickly([]).shape == (0, teacher.width)


def test_short_batches_equal_whole_ones(teacher: Teacher) -> None:
    assert teacher._short_texts is not None, "both teachers have a causal text tower"
    quick = teacher.encode_texts_quickly(TEXTS * 60)  # several batches
    np.testing.assert_allclose(quick, teacher.encode_texts(TEXTS * 60), atol=2e-6)


def test_only_the_tokens_of_the_sentences_are_computed(teacher: Teacher) -> None:
    short = teacher._short_texts
    assert short is not None
    tokens = teacher.tokenize(["a", "dog"])
    model = short._model
    with torch.inference_mode():
        whole = model.encode_text(tokens)
        assert int(short.lengths(tokens).max()) < tokens.shape[1]
        tokens = tokens.clone()
        tokens[:, int(short.lengths(tokens).max()) :] = 1  # whatever follows has no effect
        torch.testing.assert_close(short(tokens), whole, atol=1e-5, rtol=1e-5)


def test_a_tower_that_is_not_causal_is_left_alone(teacher: Teacher) -> None:
    model = teacher._short_texts
    assert model is not None
    original = model._model
    mask = original.attn_mask
    try:
        original.attn_mask = torch.zeros_like(mask)
        assert ShortTexts.of(original) is None
        original.attn_mask = None
        assert ShortTexts.of(original) is None
    finally:
        original.attn_mask = mask
    assert ShortTexts.of(original) is not None
    assert ShortTexts.of(nn.Linear(1, 1)) is None
