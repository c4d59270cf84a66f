"""The teacher equals open_clip for every architecture, and an unknown name gets one sentence."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from cckt.cache_builder.base import hub as fetching
from cckt.cache_builder.base.device import pick_device, weight_digest
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.teacher.clip import load_teacher, quick_gelu_missing
from tests.cache_builder.samples import WIDTH, tiny_config, write_teacher

SENTENCES = ["a photo of a cat.", "", "bow (weapon) " * 40]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_teacher(tmp_path_factory.mktemp("teacher"))


@pytest.fixture
def architecture(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """A tiny architecture among open_clip's own."""
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIGS", dict(open_clip.factory._MODEL_CONFIGS))
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIG_PATHS", list(open_clip.factory._MODEL_CONFIG_PATHS))
    (tmp_path / "tiny-clip.json").write_text(json.dumps(tiny_config()))
    open_clip.add_model_config(tmp_path / "tiny-clip.json")
    return "tiny-clip"


def photo(width: int = 50, height: int = 37, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def message(name: str, **options: str) -> str:
    with pytest.raises(UserError) as caught:
        load_teacher(name, **options)
    return str(caught.value)


def test_encoding_nothing_gives_no_rows(tiny: str) -> None:
    teacher = load_teacher(tiny, device="cpu")
    assert teacher.encode_texts([]).shape == (0, WIDTH)
    assert teacher.encode_images(np.zeros((0, 3, 32, 32), np.uint8)).shape == (0, WIDTH)


@pytest.mark.parametrize(
    ("changes", "preprocess"),
    [
        ({}, None),
        ({"quick_gelu": True}, {"interpolation": "bilinear", "resize_mode": "longest", "fill_color": 7}),
        (
            # SigLIP's ways: its own text tower, a bias, squashed photos in [-1, 1].
            {
                "custom_text": True,
                "init_logit_bias": -10,
                "text_cfg": {
                    **tiny_config()["text_cfg"],
                    "no_causal_mask": True,
                    "pool_type": "last",
                    "proj_bias": True,
                },
            },
            {"mean": [0.5] * 3, "std": [0.5] * 3, "resize_mode": "squash"},
        ),
        (
            # A ResNet tower.
            {"vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None}},
            None,
        ),
        (
            {
                "vision_cfg": {
                    "image_size": [32, 48],
                    "layers": 1,
                    "width": 32,
                    "head_width": 16,
                    "patch_size": 16,
                }
            },
            None,
        ),
    ],
)
def test_embeddings_equal_open_clip(tmp_path: Path, changes: dict, preprocess: dict | None) -> None:
    name = write_teacher(tmp_path, preprocess=preprocess, **changes)
    teacher = load_teacher(name, device="cpu")
    model, _, transform = open_clip.create_model_and_transforms(name)
    model.eval()
    photos = [photo(), photo(37, 50, 1), photo(200, 8, 2)]
    pixels = np.stack([teacher.preprocess.pixels(image) for image in photos])
    floats = torch.stack([transform(image) for image in photos])
    assert pixels.dtype == np.uint8
    assert pixels.shape[1:] == teacher.preprocess.shape
    assert torch.equal(teacher.preprocess.finish(torch.from_numpy(pixels)), floats)
    assert torch.equal(teacher.preprocess(photos[0]), floats[0])
    with torch.no_grad():
        images = F.normalize(model.encode_image(floats), dim=-1).numpy()
        texts = F.normalize(model.encode_text(open_clip.get_tokenizer(name)(SENTENCES)), dim=-1).numpy()
    for ours in (teacher.encode_images(pixels), teacher.encode_images(floats)):
        assert ours.dtype == np.float32
        assert ours.shape == (3, teacher.width)
        np.testing.assert_allclose((ours * images).sum(1), 1, atol=1e-6)
    np.testing.assert_allclose((teacher.encode_texts(SENTENCES, batch=2) * texts).sum(1), 1, atol=1e-6)
    size = teacher.preprocess_recipe()["size"]
    assert teacher.preprocess.shape == (3, *((size, size) if isinstance(size, int) else size))
    assert json.loads(json.dumps(teacher.recipe())) == teacher.recipe()


def test_a_hugging_face_tokenizer_in_the_folder_is_used(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"[UNK]": 0, "[PAD]": 1, "cat": 2, "dog": 3}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    text = {**tiny_config()["text_cfg"], "vocab_size": 4, "hf_tokenizer_name": "not/used"}
    name = write_teacher(tmp_path, custom_text=True, text_cfg=text)
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", pad_token="[PAD]").save_pretrained(
        tmp_path
    )
    teacher = load_teacher(name, device="cpu")
    assert teacher.tokenize(["cat dog bird"]).tolist() == [[2, 3, 0] + [1] * 13]
    assert teacher.encode_texts(["cat dog"]).shape == (1, WIDTH)


def test_a_missing_tokenizer_is_a_user_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching.hub, "HF_HUB_OFFLINE", True)
    text = {**tiny_config()["text_cfg"], "hf_tokenizer_name": "nobody/nothing"}
    teacher = load_teacher(write_teacher(tmp_path, text_cfg=text), device="cpu")
    with pytest.raises(UserError, match=r"the tokenizer of teacher local-dir:.* could not be loaded"):
        teacher.encode_texts(["cat"])


def test_an_untrained_teacher_equals_open_clip_with_the_seed(architecture: str) -> None:
    torch.manual_seed(7)
    expected = open_clip.create_model(architecture)
    torch.manual_seed(99)
    teacher = load_teacher(f"{architecture}/random:7", device="cpu")
    drawn = torch.rand(3)
    assert teacher.weight_digest == weight_digest(expected)
    assert teacher.weight_digest != load_teacher(f"{architecture}/random:8", device="cpu").weight_digest
    torch.manual_seed(99)
    assert torch.equal(torch.rand(3), drawn), "loading a teacher disturbed the caller's random numbers"


def test_published_weights_may_be_a_file(architecture: str, tmp_path: Path) -> None:
    write_teacher(tmp_path / "t", seed=3)
    teacher = load_teacher(f"{architecture}/{tmp_path}/t/open_clip_model.safetensors", device="cpu")
    assert teacher.weight_digest == load_teacher(f"local-dir:{tmp_path}/t", device="cpu").weight_digest


def test_the_digest_covers_names_types_shapes_and_bytes() -> None:
    model = torch.nn.Linear(2, 3)
    digest = hashlib.sha256()
    digest.update(b"bias|torch.float32|(3,)|" + model.bias.detach().numpy().tobytes())
    digest.update(b"weight|torch.float32|(3, 2)|" + model.weight.detach().numpy().tobytes())
    assert weight_digest(model) == f"sha256:{digest.hexdigest()}"
    seen = {weight_digest(model), weight_digest(model.double()), weight_digest(model.to(torch.bfloat16))}
    with torch.no_grad():
        model.bias[0] += 1
    seen.add(weight_digest(model))
    assert len(seen) == 4


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precision_gives_float32_of_unit_length(tiny: str, precision: str) -> None:
    exact, rough = load_teacher(tiny, device="cpu"), load_teacher(tiny, device="cpu", precision=precision)
    assert rough.weight_digest == exact.weight_digest
    assert rough.recipe()["precision"] == precision
    pixels = np.stack([exact.preprocess.pixels(photo(seed=seed)) for seed in range(3)])
    for one, other in (
        (exact.encode_images(pixels), rough.encode_images(pixels)),
        (exact.encode_texts(SENTENCES), rough.encode_texts(SENTENCES)),
    ):
        assert other.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(other, axis=1), 1, atol=1e-6)
        assert (one * other).sum(1).min() > 0.999
        assert np.abs(one - other).max() > 0


def test_non_finite_embeddings_are_a_user_error(tiny: str) -> None:
    teacher = load_teacher(tiny, device="cpu", precision="bf16")
    with pytest.raises(UserError, match="not finite in bf16; use"):
        teacher.encode_images(torch.full((1, 3, 32, 32), float("nan")))


def test_a_teacher_is_frozen_and_deterministic(tiny: str) -> None:
    teacher = load_teacher(tiny, device="cpu")
    pixels = np.stack([teacher.preprocess.pixels(photo(seed=seed)) for seed in range(5)])
    np.testing.assert_array_equal(teacher.encode_images(pixels), teacher.encode_images(pixels))


def test_open_clip_prints_nothing(architecture: str, capfd: pytest.CaptureFixture[str]) -> None:
    load_teacher(f"{architecture}/random:0", device="cpu")
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == ""


@pytest.mark.slow
def test_full_size_untrained_vit_b_32() -> None:
    teacher = load_teacher("ViT-B-32/random:0", device="cpu")
    torch.manual_seed(0)
    model, _, transform = open_clip.create_model_and_transforms("ViT-B-32")
    with torch.no_grad():
        expected = F.normalize(model.eval().encode_image(transform(photo())[None]), dim=-1).numpy()
    ours = teacher.encode_images(teacher.preprocess.pixels(photo())[None])
    assert (ours * expected).sum() >= 0.9999
    assert teacher.width == 512


def test_ranks_of_a_machine_take_a_gpu_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert pick_device("auto") == torch.device("cuda", 0)
    for rank, gpu in (("0", 0), ("3", 3), ("5", 1)):
        monkeypatch.setenv("LOCAL_RANK", rank)
        assert pick_device("auto") == torch.device("cuda", gpu)


def test_published_weights_get_the_activation_that_they_were_trained_with() -> None:
    pairs = open_clip.list_pretrained()
    wrong = []
    for architecture, tag in pairs:
        trained = bool(open_clip.get_pretrained_cfg(architecture, tag).get("quick_gelu"))
        built = bool((open_clip.get_model_config(architecture) or {}).get("quick_gelu"))
        if (built or quick_gelu_missing(architecture, tag)) != trained:
            wrong.append((architecture, tag))
    # The only weights of this architecture; its configuration, not their entry, records the activation.
    assert wrong == [("roberta-ViT-B-32", "laion2b_s12b_b32k")]
    assert quick_gelu_missing("ViT-B-32", "openai")
    assert not quick_gelu_missing("ViT-B-32-quickgelu", "openai")
    assert not quick_gelu_missing("ViT-B-32", "laion2b_s34b_b79k")
    assert not quick_gelu_missing("ViT-B-32", "weights.safetensors")


def test_the_activation_reaches_the_model_and_the_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def create(architecture: str, weights: str, **options: Any) -> tuple[torch.nn.Module, Any]:
        asked.update(options)
        config = open_clip.get_model_config("ViT-B-32")
        config |= {"vision_cfg": config["vision_cfg"] | {"layers": 1}}
        config["text_cfg"] |= {"layers": 1}
        model = open_clip.CLIP(
            config["embed_dim"],
            config["vision_cfg"],
            config["text_cfg"],
            quick_gelu=options["force_quick_gelu"],
        )
        mean = open_clip.OPENAI_DATASET_MEAN
        transform = open_clip.image_transform(224, False, mean=mean, std=open_clip.OPENAI_DATASET_STD)
        model.visual.preprocess_cfg = {"size": 224, "mean": list(mean)}
        return model, transform

    monkeypatch.setattr(open_clip, "create_model_from_pretrained", create)
    teacher = load_teacher("ViT-B-32/openai", device="cpu")
    assert asked["force_quick_gelu"] is True
    assert teacher.recipe()["architecture"]["quick_gelu"] is True
    load_teacher("ViT-B-32/laion2b_s34b_b79k", device="cpu")
    assert asked["force_quick_gelu"] is False


def test_unknown_devices_and_precisions_are_refused(tiny: str) -> None:
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("auto").type in ("cuda", "mps", "cpu")
    for device in ("tpu", "cuda:99", "cpu:x", ""):
        assert f"--device: found {device!r}" in message(tiny, device=device)
    assert "choose one of fp32, bf16, fp16" in message(tiny, precision="fp8")
