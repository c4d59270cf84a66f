"""Tiny untrained detectors of several architectures, built from their configs; nothing is downloaded."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
import transformers as hf

from tests.cache_builder.mllm.mllm_models import tokenizer

LABELS = {0: "cat", 1: "umbrella", 2: "LABEL_2"}
_STAGES = {"embedding_size": 8, "hidden_sizes": [8, 8, 8, 8], "depths": [1, 1, 1, 1], "layer_type": "basic"}
_SMALL = {
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_ffn_dim": 16,
    "decoder_ffn_dim": 16,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "num_queries": 12,
}
_SIZE = {"shortest_edge": 48, "longest_edge": 64}
_OUT = ["stage2", "stage3", "stage4"]


def write_detector(kind: str, folder: Path, seed: int = 0) -> str:
    """Write the tiny detector of an architecture as save_pretrained does; return the folder's name."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model, processor = globals()[f"_{kind}"]()
        for parameter in model.parameters():  # large enough that boxes and scores differ
            if parameter.ndim >= 2:
                parameter.data.normal_(0, 1.0 / math.sqrt(parameter.shape[-1]))
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


def _detr() -> tuple[Any, Any]:
    backbone = hf.ResNetConfig(**_STAGES, out_features=["stage4"])
    config = hf.DetrConfig(backbone_config=backbone, d_model=16, id2label=LABELS, **_SMALL)
    return hf.DetrForObjectDetection(config), hf.DetrImageProcessor(size=_SIZE)


def _deformable_detr() -> tuple[Any, Any]:
    backbone = hf.ResNetConfig(**_STAGES, out_features=_OUT)
    config = hf.DeformableDetrConfig(
        backbone_config=backbone, d_model=32, num_feature_levels=3, id2label=LABELS, **_SMALL
    )
    return hf.DeformableDetrForObjectDetection(config), hf.DeformableDetrImageProcessor(size=_SIZE)


def _rt_detr() -> tuple[Any, Any]:
    config = hf.RTDetrConfig(
        backbone_config=hf.RTDetrResNetConfig(**_STAGES, out_features=_OUT),
        encoder_hidden_dim=16,
        encoder_in_channels=[8, 8, 8],
        d_model=16,
        decoder_in_channels=[16, 16, 16],
        num_feature_levels=3,
        id2label=LABELS,
        **_SMALL,
    )
    processor = hf.RTDetrImageProcessor(size={"height": 64, "width": 64})
    return hf.RTDetrForObjectDetection(config), processor


def _yolos() -> tuple[Any, Any]:
    config = hf.YolosConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=[48, 64],
        patch_size=16,
        num_detection_tokens=12,
        id2label=LABELS,
    )
    return hf.YolosForObjectDetection(config), hf.YolosImageProcessor(size=_SIZE)


def _owlv2() -> tuple[Any, Any]:
    text = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": 432,
        "max_position_embeddings": 16,
    }
    vision = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 64,
        "patch_size": 16,
    }
    config = hf.Owlv2Config(
        text_config={**text, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
        vision_config=vision,
        projection_dim=16,
    )
    images = hf.Owlv2ImageProcessor(size={"height": 64, "width": 64})
    words = tokenizer(eos=True, pictures=False)
    words.model_max_length = 16
    return hf.Owlv2ForObjectDetection(config), hf.Owlv2Processor(images, words)


def _grounding_dino() -> tuple[Any, Any]:
    backbone = hf.SwinConfig(
        image_size=64,
        embed_dim=8,
        depths=[1, 1, 1],
        num_heads=[1, 1, 1],
        window_size=2,
        out_features=_OUT[:2],
    )
    text = {
        "model_type": "bert",
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "vocab_size": 432,
        "max_position_embeddings": 64,
    }
    config = hf.GroundingDinoConfig(
        backbone_config=backbone,
        text_config=text,
        d_model=32,
        num_feature_levels=2,
        max_text_len=32,
        **_SMALL,
    )
    images = hf.GroundingDinoImageProcessor(size=_SIZE)
    words = tokenizer(eos=True, pictures=False)
    return hf.GroundingDinoForObjectDetection(config), hf.GroundingDinoProcessor(images, words)
