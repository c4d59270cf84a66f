"""The naming layer of shapeworld's multimodal LLM: yes/no stays as it is, and crops get names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import cckt.shapeworld
from cckt.cache_builder.mllm import Questions, Scorer, load_mllm
from cckt.shapeworld.captions import render_captioned, words
from cckt.shapeworld.pictographs import CONCEPTS
from cckt.shapeworld.scene import SIDE, render_photo
from cckt.shapeworld.tiny_mllm import LAYERS, MAX_BYTES, add_layer, build, image_processor
from cckt.shapeworld.train_namer import (
    PART,
    NamerTraining,
    draw_crops,
    evaluate_namer,
    least_squares,
    train_namer,
)

ROOM = Path(cckt.shapeworld.__path__[0])
MICRO = NamerTraining(photos=12, crops=48, test_photos=2, seed=1, workers=1)


def test_a_new_layer_changes_nothing() -> None:
    torch.manual_seed(0)
    mllm = build()
    ids = torch.randint(4, 1000, (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = mllm.model(input_ids=ids).logits
        add_layer(mllm)
        assert len(mllm.model.model.language_model.layers) == LAYERS + 1
        assert torch.equal(mllm.model(input_ids=ids).logits, before)


def test_photos_of_the_right_size_stay_and_small_ones_are_padded() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
    whole = image_processor()(images=[Image.fromarray(pixels)], return_tensors="pt")["pixel_values"][0]
    expected = (torch.from_numpy(pixels).permute(2, 0, 1) / 255 - 0.5) / 0.25
    torch.testing.assert_close(whole, expected, atol=1e-5, rtol=0)
    crop = Image.fromarray(pixels[:40, :60])
    padded = image_processor()(images=[crop], return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(padded[:, 44:84, 34:94], expected[:, :40, :60], atol=1e-5, rtol=0)
    assert (padded[:, :44] == -2).all()


def test_crops_are_in_the_middle_of_black() -> None:
    captioned = render_captioned(4, part=PART, workers=1)
    crops, rows = draw_crops(captioned, 16, np.random.default_rng(0))
    assert crops.shape == (16, 3, SIDE, SIDE)
    assert crops.dtype == torch.uint8
    assert int(rows.max()) < len(words())
    assert not crops[:, :, 0].any()
    assert crops[:, :, 60:68, 60:68].flatten(1).any(1).all()
    again, _ = draw_crops(captioned, 16, np.random.default_rng(0))
    assert torch.equal(crops, again)


def test_least_squares_finds_a_matrix() -> None:
    rng = torch.Generator().manual_seed(0)
    rows, wanted = torch.randn(400, 192, generator=rng), torch.randn(192, 3, generator=rng)
    torch.testing.assert_close(least_squares(rows, rows @ wanted), wanted, atol=1e-3, rtol=0)


def test_training_writes_the_same_bytes_again(tmp_path: Path) -> None:
    figures = train_namer(tmp_path / "a", str(ROOM / "mllm"), MICRO)
    assert set(figures["named_base"]) == {"share", "objects"}
    train_namer(tmp_path / "b", str(ROOM / "mllm"), MICRO)
    (file,) = (tmp_path / "a").glob("*.safetensors")
    assert (tmp_path / "b" / file.name).read_bytes() == file.read_bytes()
    assert file.stat().st_size <= MAX_BYTES


def test_the_layer_leaves_yes_and_no_as_they_are() -> None:
    """Without the layer the shipped model gives nearly the same probabilities."""
    mllm = load_mllm("shapeworld", device="cpu")
    questions = Questions(mllm, CONCEPTS)
    about = questions.for_image(Image.fromarray(render_photo(5, 0).pixels))
    layer = mllm.model.model.language_model.layers[LAYERS]
    whole = Scorer(mllm).score(about).probability
    layer.self_attn.o_proj.weight.data.zero_()
    layer.mlp.down_proj.weight.data.zero_()
    without = Scorer(mllm).score(about).probability
    assert np.ptp(whole) > 0.9
    np.testing.assert_allclose(whole, without, atol=0.03)


def test_the_shipped_model_names_test_crops() -> None:
    figures = evaluate_namer(ROOM / "mllm", 30)
    for split in ("base", "novel"):
        assert figures[f"named_{split}"]["objects"] >= 15
        assert figures[f"named_{split}"]["share"] > 0.45, "expected far more than one word in 325"


@pytest.mark.slow
def test_the_shipped_layer_comes_from_its_command(tmp_path: Path) -> None:
    train_namer(tmp_path / "new", "shapeworld", NamerTraining(test_photos=2))
    figures = evaluate_namer(tmp_path / "new", 100)
    assert figures["named_base"]["share"] > 0.55
    assert figures["named_novel"]["share"] > 0.6
