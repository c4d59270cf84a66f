"""A teacher of each family of open_clip has the activation, preprocessing and tokenizer that open_clip pairs.

The families are shrunk to one layer with random weights, and keep what is paired with weights: activation,
image size, mean, std, resizing, context length, tokenizer and its options.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional as F

from cckt.cache_builder.base import hub
from cckt.cache_builder.teacher.clip import load_teacher
from tests.cache_builder.samples import write_teacher

SENTENCES = ["a photo of a cat.", "A Photo of TWO Cats, and a dog!", "dog " * 100]
WORDS = [
    "[UNK]",
    "[PAD]",
    "[CLS]",
    "[SEP]",
    "a",
    "photo",
    "of",
    "two",
    "cats",
    "and",
    "cat",
    "dog",
    "A",
    "TWO",
    "!",
    ",",
]
FAMILIES = (
    "ViT-B-32/openai",
    "ViT-B-32-quickgelu/openai",
    "ViT-B-32/laion2b_s34b_b79k",
    "ViT-L-14-336/openai",
    "RN50/openai",
    "coca_ViT-B-32/laion2b_s13b_b90k",
    "convnext_base/laion400m_s13b_b51k",
    "EVA02-B-16/merged2b_s8b_b131k",
    "MobileCLIP-S1/datacompdr",
    "PE-Core-B-16/meta",
    "ViTamin-S/datacomp1b",
    "ViT-L-14-CLIPA/datacomp1b",
    "ViT-B-16-SigLIP/webli",
    "ViT-SO400M-14-SigLIP/webli",
    "ViT-B-16-SigLIP2/webli",
    "xlm-roberta-base-ViT-B-32/laion5b_s13b_b90k",
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer of transformers that tells upper from lower case, in place of those of the hub."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({word: at for at, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    folder = tmp_path_factory.mktemp("tokenizer")
    special = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(folder)
    return folder


def shrunk(architecture: str, tokenizer: Path) -> dict[str, Any]:
    """Return the config of a family with one layer per tower and its own pairing."""
    config = open_clip.get_model_config(architecture)
    vision, text = config["vision_cfg"], config["text_cfg"]
    config["embed_dim"] = 24
    if "timm_model_name" in vision:
        vision["timm_model_name"] = "test_convnext" if "convnext" in architecture else "test_vit"
        vision |= {"timm_pool": "avg", "timm_proj": "linear", "timm_model_pretrained": False}
    elif isinstance(vision["layers"], list):
        vision |= {"layers": [1, 1, 1, 1], "width": 8}
    else:
        vision |= {"layers": 1, "width": 32, "head_width": 16, "mlp_ratio": 2.0}
    text |= {"width": 16, "heads": 2, "layers": 1}
    if "multimodal_cfg" in config:
        config["multimodal_cfg"] |= {"width": 16, "heads": 2, "layers": 1}
    if "hf_tokenizer_name" in text:
        text |= {"hf_tokenizer_name": str(tokenizer), "vocab_size": len(WORDS)}
    if "hf_model_name" in text:  # its tower is on the hub; the pairing of its tokenizer stays
        for key in [key for key in text if key.startswith("hf_") and key != "hf_tokenizer_name"]:
            del text[key]
    return config


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_is_paired_as_open_clip_pairs_it(
    name: str, tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    architecture, _, tag = name.partition("/")
    entry = dict(open_clip.get_pretrained_cfg(architecture, tag))
    assert entry, f"{name} is not in the registry"
    config = shrunk(architecture, tokenizer)
    registry = {**open_clip.factory._MODEL_CONFIGS, "small": config, "right": {**config, "quick_gelu": False}}
    registry["right"]["quick_gelu"] = bool(entry.get("quick_gelu") or config.get("quick_gelu"))
    weights = tmp_path / "weights.safetensors"
    published = {tag: {**entry, "url": "", "hf_hub": "", "file": str(weights)}}
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIGS", registry)
    monkeypatch.setattr(open_clip.factory, "list_models", lambda: list(registry))
    monkeypatch.setattr(open_clip, "list_models", lambda: list(registry))
    for one in ("small", "right"):
        monkeypatch.setitem(open_clip.pretrained._PRETRAINED, one, published)
    torch.manual_seed(0)
    save_file(
        {key: value.clone() for key, value in open_clip.create_model("right").state_dict().items()}, weights
    )
    model, _, transform = open_clip.create_model_and_transforms("right", pretrained=tag)
    expected_tokens = open_clip.get_tokenizer("right")(SENTENCES)

    teacher = load_teacher(f"small/{tag}", device="cpu")
    assert torch.equal(teacher.tokenize(SENTENCES), expected_tokens)
    context = open_clip.get_model_config(architecture)["text_cfg"].get("context_length", 77)
    assert teacher.tokenize(SENTENCES).shape == (3, context)
    photos = [
        Image.fromarray(np.random.default_rng(seed).integers(0, 255, (37, 50 + 90 * seed, 3), dtype=np.uint8))
        for seed in range(2)
    ]
    floats = torch.stack([transform(photo) for photo in photos])
    pixels = np.stack([teacher.preprocess.pixels(photo) for photo in photos])
    assert torch.equal(teacher.preprocess.finish(torch.from_numpy(pixels)), floats)
    recipe = teacher.preprocess_recipe()
    for key in ("mean", "std", "interpolation", "resize_mode"):
        assert np.array_equal(recipe[key], entry[key]), key
    size = config["vision_cfg"]["image_size"]
    assert recipe["size"] in (size, [size, size])
    with torch.no_grad():
        images = F.normalize(model.eval().encode_image(floats), dim=-1).numpy()
        texts = F.normalize(model.encode_text(expected_tokens), dim=-1).numpy()
    np.testing.assert_allclose(teacher.encode_images(pixels), images, atol=1e-5)
    np.testing.assert_allclose(teacher.encode_texts(SENTENCES), texts, atol=1e-5)
    assert bool(teacher.recipe()["architecture"].get("quick_gelu")) is registry["right"]["quick_gelu"]


def test_quick_gelu_changes_the_embeddings(tmp_path: Path) -> None:
    """Otherwise the comparison above could not fail for it."""
    rows = []
    for quick in (False, True):
        name = write_teacher(tmp_path / str(quick), quick_gelu=quick)
        rows.append(load_teacher(name, device="cpu").encode_images(np.full((1, 3, 32, 32), 90, np.uint8)))
    assert np.abs(rows[0] - rows[1]).max() > 1e-4


def test_siglip_reads_capitals_as_small_letters(tokenizer: Path, tmp_path: Path) -> None:
    """Whether its tokenizer is in a folder or named by an architecture; CLIP's own reads them so too."""
    text = {**shrunk("ViT-B-16-SigLIP", tokenizer)["text_cfg"], "tokenizer_kwargs": {"clean": "canonicalize"}}
    name = write_teacher(tmp_path / "siglip", custom_text=True, text_cfg=text)
    for file in tokenizer.iterdir():
        (tmp_path / "siglip" / file.name).write_bytes(file.read_bytes())
    teacher = load_teacher(name, device="cpu")
    big, small = teacher.tokenize(["A photo, of TWO cats!"]), teacher.tokenize(["a photo of two cats"])
    assert torch.equal(big, small)
    assert small[0, :7].tolist() == [2, 4, 5, 6, 7, 8, 3]
    cased = {**text, "tokenizer_kwargs": {"clean": "whitespace"}}
    other = write_teacher(tmp_path / "cased", custom_text=True, text_cfg=cased)
    for file in tokenizer.iterdir():
        (tmp_path / "cased" / file.name).write_bytes(file.read_bytes())
    assert not torch.equal(load_teacher(other, device="cpu").tokenize(["A photo, of TWO cats!"]), big)


def test_a_repository_of_the_hub_is_paired_by_its_own_configuration(
    tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preprocess = {"mean": [0.5] * 3, "std": [0.25] * 3, "interpolation": "bilinear", "resize_mode": "squash"}
    source = tmp_path / "source"
    local = write_teacher(source, seed=4, preprocess=preprocess, quick_gelu=True)
    repository = tmp_path / "hub" / "models--somebody--clip"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    for file in source.iterdir():
        (snapshot / file.name).write_bytes(file.read_bytes())
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr(hub.hub, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(hub.hub, "HF_HUB_OFFLINE", True)
    teacher, same = (load_teacher(name, device="cpu") for name in ("hf-hub:somebody/clip", local))
    assert teacher.weight_digest == same.weight_digest
    assert teacher.preprocess_recipe() == same.preprocess_recipe()
    assert teacher.preprocess_recipe()["std"] == [0.25] * 3
    assert teacher.recipe()["architecture"] == same.recipe()["architecture"]
    assert teacher.recipe()["architecture"]["quick_gelu"] is True
    assert torch.equal(teacher.tokenize(SENTENCES), same.tokenize(SENTENCES))
    assert json.loads(json.dumps(teacher.recipe())) == teacher.recipe()
