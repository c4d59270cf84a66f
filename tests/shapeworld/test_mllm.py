"""Shapeworld's multimodal LLM: its parts, its losses, and a short training in the public format."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn import functional

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.mllm import Mllm, Questions
from cckt.cache_builder.mllm.strategies import reference_logits
from cckt.shapeworld import train_mllm
from cckt.shapeworld.captions import words
from cckt.shapeworld.pictographs import CONCEPTS
from cckt.shapeworld.scene import SIDE
from cckt.shapeworld.tiny_mllm import CELLS, IMAGE, MAX_BYTES, build, load_tower, tokenizer
from cckt.shapeworld.train_backbone import SingleDrawings
from cckt.shapeworld.train_mllm import (
    CellLoss,
    MllmTraining,
    QuestionLoss,
    make_mosaics,
    sample_words,
    train,
)

ROOM = Path(train_mllm.__file__).parent
MICRO = MllmTraining(
    images=24,
    photos=8,
    image_steps=2,
    question_steps=2,
    batch=4,
    questions=8,
    test_photos=2,
    seed=3,
    workers=1,
)


@pytest.fixture(scope="module")
def mllm() -> Mllm:
    torch.manual_seed(0)
    return build()


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_every_word_is_one_token_and_a_question_adds_two(mllm: Mllm) -> None:
    assert all(len(mllm.tokenizer.encode(word, add_special_tokens=False)) == 1 for word in words())
    assert Questions(mllm, words()).suffix_lengths() == [2] * len(words())
    assert max(Questions(mllm, ("forklift", "sunflower seed", "crème brûlée")).suffix_lengths()) > 2
    assert "sun" not in tokenizer().convert_ids_to_tokens(tokenizer().encode("sunny"))
    assert mllm.yes_no.yes and mllm.yes_no.no  # noqa: PT018


def test_first_layer_attention_prefers_the_cell_of_a_word_then_the_word_itself(mllm: Mllm) -> None:
    body = mllm.model.model
    layer = body.language_model.layers[0]
    with torch.no_grad():
        ids = [mllm.tokenizer.encode(word, add_special_tokens=False)[0] for word in CONCEPTS]
        token = body.get_input_embeddings().weight[ids]
        cell = token.clone()
        cell[:, 0] = body.multi_modal_projector.linear_2.bias[0]
        queries = layer.self_attn.q_proj(layer.input_layernorm(token))
        to_cells = queries @ layer.self_attn.k_proj(layer.input_layernorm(cell)).T
        to_self = (queries * layer.self_attn.k_proj(layer.input_layernorm(token))).sum(1)
    assert (to_cells.argmax(1) == torch.arange(len(CONCEPTS))).all()
    assert (to_cells.diagonal() > to_self).all()
    others = to_cells - torch.diag_embed(to_cells.diagonal())
    assert (to_self > others.mean(1)).all()


def test_the_question_loss_is_that_of_single_questions(mllm: Mllm, photo: Image.Image) -> None:
    """Packed questions give the loss of one question at a time by transformers' `generate`."""
    questions = Questions(mllm, words()).for_image(photo)
    truth = torch.zeros(1, len(words()), dtype=torch.bool)
    truth[0, [3, 70]] = True
    question_loss, cell_loss = QuestionLoss(mllm, replace(MICRO, questions=9)), CellLoss(mllm)
    with torch.no_grad():
        cells = cell_loss.encode(questions.image_inputs["pixel_values"])
        found, _ = question_loss(cells, truth, np.random.default_rng(5))
        rows = sample_words(np.random.default_rng(5), truth[0].numpy(), 9)
        logits = torch.stack([reference_logits(mllm, questions, int(row)) for row in rows])
    yes, no = (mllm.tokenizer.encode(f" {word}", add_special_tokens=False)[0] for word in ("yes", "no"))
    answers = torch.where(truth[0, torch.from_numpy(rows)], yes, no)
    assert cells.shape == (1, CELLS, mllm.model.config.text_config.hidden_size)
    assert int((questions.prefix["input_ids"] == IMAGE).sum()) == CELLS
    assert float(found) == pytest.approx(float(functional.cross_entropy(logits, answers)), rel=0.02)


def test_the_cell_loss_by_hand(mllm: Mllm) -> None:
    cell_loss = CellLoss(mllm)
    rng = torch.Generator().manual_seed(0)
    cells = torch.randn(3, CELLS, 192, generator=rng)
    quarter_words = torch.tensor([[0, 1, 2, 3]])
    truth = torch.zeros(2, len(words()), dtype=torch.bool)
    truth[0, 5] = truth[1, 7] = True
    with torch.no_grad():
        mosaic, caption = cell_loss(cells, quarter_words, truth)
        vectors = functional.normalize(
            mllm.model.get_input_embeddings().weight[cell_loss._words][:, 1:], dim=1
        )
        scores = functional.normalize(cells[..., 1:], dim=2) @ vectors.T * float(np.exp(2.3))
    expected = 0.0
    for quarter, word in enumerate(quarter_words[0].tolist()):
        top, left = 4 * (quarter // 2), 4 * (quarter % 2)
        inside = [8 * (top + y) + left + x for y in range(4) for x in range(4)]
        pooled = scores[0, inside].exp().sum(0)
        expected -= float((pooled[word] / pooled.sum()).log()) / 4
    assert float(mosaic) == pytest.approx(expected, rel=1e-4)
    loss = 0.0
    for page in range(2):
        for word in range(len(words())):
            odds = float((scores[1 + page, :, word] - 6.0).exp().sum())
            chance = odds / (1 + odds)
            loss -= 3 * np.log(chance) / 2 if truth[page, word] else np.log(1 - chance) / 2
    assert float(caption) == pytest.approx(loss, rel=1e-3)
    with torch.no_grad():
        no_mosaic, _ = cell_loss(cells[1:], quarter_words[:0], truth)
        _, no_caption = cell_loss(cells[:1], quarter_words, truth[:0])
    assert float(no_mosaic) == float(no_caption) == 0


def test_a_mosaic_is_four_images_row_by_row() -> None:
    dataset = SingleDrawings(words()[:6], 12, 1, held_out=0)
    generator = torch.Generator().manual_seed(1)
    whole, labels = make_mosaics(dataset, 2, 0.5, generator)
    images, expected = dataset.sample(8, 0.5, torch.Generator().manual_seed(1))
    assert whole.shape == (2, 3, SIDE, SIDE)
    assert torch.equal(labels.flatten(), expected)
    half = SIDE // 2
    for number in range(8):
        page, top, left = number // 4, half * (number % 4 // 2), half * (number % 2)
        assert torch.equal(whole[page, :, top : top + half, left : left + half], images[number])
    assert make_mosaics(dataset, 0, 0.5, generator)[0].shape == (0, 3, SIDE, SIDE)


def test_questions_cover_present_words_and_half_of_the_others_are_concepts() -> None:
    present = np.zeros(len(words()), bool)
    present[[2, 100, 300]] = True
    rows = sample_words(np.random.default_rng(0), present, 24)
    assert len(set(rows.tolist())) == 24
    assert {2, 100, 300} <= set(rows.tolist())
    assert sum(int(row) < len(CONCEPTS) for row in rows if not present[row]) >= 10
    present[:200] = True
    assert present[sample_words(np.random.default_rng(0), present, 24)].sum() == 8


def test_training_gives_a_model_that_transformers_loads_and_the_same_bytes_again(tmp_path: Path) -> None:
    start = ROOM / "teacher" / "open_clip_model.safetensors"
    figures = train(tmp_path / "a", start, MICRO)
    assert set(figures) >= {"share", "existence_base", "existence_novel", "existence_all"}
    assert figures["existence_all"]["pairs"] > 0
    json.dumps(figures)
    model = transformers.AutoModelForImageTextToText.from_pretrained(tmp_path / "a", local_files_only=True)
    processor = transformers.AutoProcessor.from_pretrained(tmp_path / "a", local_files_only=True)
    assert type(model).__module__.startswith("transformers.")
    inputs = processor(images=Image.new("RGB", (64, 80)), text="<image>is there a sun?", return_tensors="pt")
    assert inputs["pixel_values"].shape == (1, 3, SIDE, SIDE)
    assert model(**inputs).logits.shape[:2] == inputs["input_ids"].shape
    (file,) = (tmp_path / "a").glob("*.safetensors")
    assert file.stat().st_size <= MAX_BYTES
    weights = load_file(file)
    assert all(value.dtype == torch.float16 for value in weights.values() if value.is_floating_point())
    assert all(torch.isfinite(value).all() for value in weights.values() if value.is_floating_point())
    train(tmp_path / "b", start, MICRO)
    assert (tmp_path / "b" / file.name).read_bytes() == file.read_bytes()


def test_the_shipped_model_is_small_and_recognises_test_images() -> None:
    (file,) = (ROOM / "mllm").glob("*.safetensors")
    assert file.stat().st_size <= MAX_BYTES
    assert not list((ROOM / "mllm").glob("*.py"))
    assert not list((ROOM / "mllm").glob("*.bin"))
    figures = train_mllm.evaluate_mllm(ROOM / "mllm", 40)
    assert figures["share"] > 0.95, "expected nearly all probability on yes and no"
    for split in ("base", "novel"):
        assert figures[f"existence_{split}"]["f1"] > 0.7, (
            "expected more than the shipped CLIP, which has .51 and .57"
        )


def test_the_tower_starts_from_a_backbone_or_a_teacher(mllm: Mllm, tmp_path: Path) -> None:
    tower = mllm.model.model.vision_tower.timm_model
    backbone = ROOM / "backbone" / "resnet10t.safetensors"
    known = load_file(backbone)
    assert load_tower(tower, backbone) == len(known)
    name = "layer3.0.conv2.weight"
    assert torch.equal(tower.state_dict()[name], known[name].float())
    taken = load_tower(tower, ROOM / "teacher" / "open_clip_model.safetensors")
    assert taken >= len(known)
    other: dict[str, Any] = {"layer3.0.conv2.weight": torch.zeros(2, 2), "head.weight": torch.zeros(1)}
    save_file(other, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match=r"--start .*other.safetensors: has no weights of a resnet10t"):
        load_tower(tower, tmp_path / "other.safetensors")
    (tmp_path / "torn.safetensors").write_bytes(b"torn")
    for broken in ("torn.safetensors", "missing.safetensors"):
        with pytest.raises(UserError, match=r"cannot be read as safetensors"):
            load_tower(tower, tmp_path / broken)
