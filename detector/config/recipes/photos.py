"""Real photos in small numbers: minutes to an hour on a laptop, or on one small GPU."""

from __future__ import annotations

from dataclasses import replace

from cckt.detector.config.config import Config, changed
from cckt.detector.config.recipes.shapeworld import shapeworld_fast


def photos_small() -> Config:
    """150 to 5,000 real photos at 320 px on two CPU cores; use it with `--epochs auto`.

    The method and the options of `shapeworld-fast` with EfficientNet-Lite0 from ImageNet (3.4 million
    weights, of which the first stages stay frozen), 100 queries and horizontal flips. It has no figures of a
    paper; benchmarks/README.md states images/s and memory.
    """
    config = replace(shapeworld_fast(), recipe="photos-small")
    config = changed(
        config,
        "model",
        backbone="tf_efficientnet_lite0",
        backbone_weights="tag:in1k",
        strides=(8, 16, 32),
        levels=3,
        queries=100,
    )
    config = changed(
        config,
        "data",
        short_sides=(256, 288, 320),
        max_side=416,
        eval_short_side=320,
        flip=0.5,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    )
    config = changed(config, "train", epochs=16, batch=8, lr=5e-4, backbone_lr_factor=0.2)
    # Without matrix instructions for bfloat16, which few laptops have, float32 is the faster one.
    config = changed(config, "train", precision="fp32", ema_decay=0.99, warmup_steps=30, checkpoint_every=200)
    return changed(config, "inference", batch=8)


def photos_medium() -> Config:
    """1,000 to 50,000 real photos at 512 px on one small GPU (8 GB).

    `photos-small` with ResNet-50 from ImageNet, 200 queries, two encoder layers and a wider transformer.
    Untested at full length: it has no figures.
    """
    config = replace(photos_small(), recipe="photos-medium")
    config = changed(
        config,
        "model",
        backbone="resnet50",
        backbone_weights="tag:tv_in1k",
        levels=4,
        hidden=256,
        heads=8,
        ffn=512,
        encoder_layers=2,
        queries=200,
    )
    config = changed(
        config,
        "data",
        short_sides=(416, 448, 480, 512),
        max_side=768,
        eval_short_side=512,
        workers=4,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    )
    config = changed(config, "train", epochs=24, batch=8, lr=2e-4, precision="bf16", ema_decay=0.998)
    return changed(config, "train", warmup_steps=200)
