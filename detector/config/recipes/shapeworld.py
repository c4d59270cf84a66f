"""CCKT-Det on shapeworld, the embedded data set: 128 px photos, minutes on two CPU cores."""

from __future__ import annotations

from dataclasses import replace

from cckt.detector.config.config import (
    Config,
    DataConfig,
    InferenceConfig,
    LossConfig,
    MatcherConfig,
    ModelConfig,
    PriorConfig,
    TrainConfig,
    changed,
)
from cckt.detector.config.recipes.variants import faster_training


def shapeworld() -> Config:
    """The method of the paper on shapeworld, with our own schedule; figures in benchmarks/README.md.

    The backbone starts from shapeworld's own weights (480 single drawings), as COCO's starts from ImageNet.
    The method is the paper's: guidance by annotations, contrast, score by similarity. These settings are not,
    because a run takes minutes: the class head reads the region embedding (with its own embedding, the
    similarity score reaches half of the head's AP); the contrast has weight 0.25 from the first epoch on, is
    divided by all objects, and its negatives come from the batch; a small detector, a cosine schedule and a
    moving average of the weights. No flips: a mirrored pictograph is a different one.
    """
    config = Config(
        recipe="shapeworld",
        model=ModelConfig(
            backbone="resnet10t",
            backbone_weights="shapeworld",
            strides=(8, 16),
            levels=3,
            hidden=128,
            heads=4,
            encoder_layers=1,
            decoder_layers=3,
            ffn=256,
            dropout=0.0,
            queries=50,
            class_embedding="region",
        ),
        matcher=MatcherConfig(),
        loss=LossConfig(),
        data=DataConfig(
            short_sides=(128,),
            max_side=128,
            eval_short_side=128,
            flip=0.0,
            random_crop=False,
            workers=0,
            mean=(0.5, 0.5, 0.5),
            std=(0.25, 0.25, 0.25),
        ),
        train=TrainConfig(
            epochs=8,
            batch=16,
            lr=1e-3,
            backbone_lr_factor=0.5,
            clip_norm=1.0,
            schedule="cosine",
            warmup_steps=100,
            precision="bf16",
            ema_decay=0.998,
        ),
        prior=PriorConfig(),
        inference=InferenceConfig(batch=32),
    )
    return changed(
        config, "terms.region_contrast", weight=0.25, first_epoch=0, negatives="batch", divisor="objects"
    )


def shapeworld_fast() -> Config:
    """`shapeworld` with options beyond the paper; what `cckt quickstart --cckt` trains.

    Adds guided references, denoising queries, guidance noise, prior weighting, softmax over concepts, and
    NMS. The effect of each option: docs/ablations.md.
    """
    config = faster_training(replace(shapeworld(), recipe="shapeworld-fast"), groups=2)
    return changed(config, "inference", nms=0.5, prior_weight=0.5, softmax=True)
