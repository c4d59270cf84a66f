"""Named configs. A recipe is a function; its docstring says what it should reach and what it costs."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import replace

from cckt.cache_builder.base.errors import UserError
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


def shapeworld() -> Config:
    """The embedded world: 128 px photos, minutes on two CPU cores; figures in benchmarks/README.md.

    The backbone begins from shapeworld's own (480 single drawings), as COCO's begins from ImageNet. Unlike
    the paper's, because a run has minutes: the class head reads the region embedding (with one of its own the
    similarity score stays at half the head's AP), and the contrast weighs a quarter and takes its negatives
    from the batch. Nothing is mirrored: a pictograph's mirror image is another one.
    """
    return Config(
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
        loss=LossConfig(loss_contrast=0.25, contrast_from_epoch=0, negatives="batch"),
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


def coco_48_17_r50() -> Config:
    """OV-COCO with ResNet-50, as METHOD.md says: AP50 novel 38.0 with CLIP priors, 45.3 with MLLM priors.

    36 epochs of COCO train2017; teacher ViT-L-14. For the paper's figures set prior.fill=random.
    """
    return Config(recipe="coco-48-17-r50")


def shapeworld_fast() -> Config:
    """`shapeworld` with what goes beyond the paper; what `cckt quickstart` trains.

    Words choose the cells at which their queries begin, denoising queries are told right words and wrong
    ones, guidance in training is noisy, priors weigh on scores, the concepts share each box among them, and
    NMS drops the duplicates that a run of minutes has not unlearnt. Figures, and what each of these is worth:
    docs/ablations.md.
    """
    config = _quickened(replace(shapeworld(), recipe="shapeworld-fast"), groups=2)
    return changed(config, "inference", nms=0.5, prior_weight=0.5, softmax=True)


def coco_48_17_r50_fast() -> Config:
    """`coco-48-17-r50` in 12 epochs: first references chosen by words, denoising queries, guidance noise.

    The lower rate and the contrastive loss come with epoch 10, in the proportion of the 36-epoch
    schedule. No figure of it is known: it has not been trained at full size.
    """
    config = _quickened(replace(coco_48_17_r50(), recipe="coco-48-17-r50-fast"), groups=5)
    config = changed(config, "train", epochs=12, lr_drop_epoch=10)
    return changed(config, "loss", contrast_from_epoch=10)


def coco_48_17_swinb() -> Config:
    """OV-COCO with Swin-B from ImageNet-22k: AP50 novel 41.9 with CLIP priors, 46.0 with MLLM priors.

    12 epochs with teacher ViT-H-14, the last with the contrastive loss and the lower rate, in the proportion
    of the 36-epoch schedule.
    """
    config = replace(coco_48_17_r50(), recipe="coco-48-17-swinb")
    return _swin(config, epochs=12, second_phase=10)


def lvis_r50() -> Config:
    """OV-LVIS with ResNet-50: rare AP 18.2, AP 27.1. 600 queries, 12 present concepts, 300 detections."""
    config = replace(coco_48_17_r50(), recipe="lvis-r50")
    config = changed(config, "model", queries=600)
    config = changed(config, "prior", limit=12)
    return changed(config, "inference", top=300)


def lvis_swinb() -> Config:
    """OV-LVIS with Swin-B: rare AP 32.8, AP 44.3, with pseudo annotations (boxes over 0.9 added as base)."""
    config = replace(lvis_r50(), recipe="lvis-swinb")
    return _swin(config, epochs=36, second_phase=31)


def _quickened(config: Config, groups: int) -> Config:
    """What helped on shapeworld. The noise: priors name a fifth too few, some too many, sometimes none."""
    config = changed(config, "model", reference="guided")
    return changed(
        config,
        "train",
        denoise_groups=groups,
        guidance_drop=0.2,
        guidance_add=2.0,
        guidance_none=0.2,
    )


def _swin(config: Config, epochs: int, second_phase: int) -> Config:
    config = changed(
        config,
        "model",
        backbone="swin_base_patch4_window12_384",
        backbone_weights="tag:ms_in22k",
        freeze_stride=0,
    )
    config = changed(config, "train", epochs=epochs, lr_drop_epoch=second_phase)
    return changed(config, "loss", contrast_from_epoch=second_phase)


RECIPES: dict[str, Callable[[], Config]] = {
    "shapeworld": shapeworld,
    "shapeworld-fast": shapeworld_fast,
    "coco-48-17-r50": coco_48_17_r50,
    "coco-48-17-r50-fast": coco_48_17_r50_fast,
    "coco-48-17-swinb": coco_48_17_swinb,
    "lvis-r50": lvis_r50,
    "lvis-swinb": lvis_swinb,
}


def recipe(name: str) -> Config:
    """The config of a recipe. Raises UserError for an unknown name, with the nearest one."""
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=1, cutoff=0.3)
        hint = f"did you mean {near[0]!r}?" if near else "expected one of these."
        raise UserError(f"--recipe: unknown recipe {name!r} among {', '.join(RECIPES)}; {hint}")
    return RECIPES[name]()


def plain(config: Config) -> Config:
    """The same detector without the method: no guidance, no contrast (loss, matching), the head's score."""
    config = without_contrast(without_guidance(config))
    return changed(config, "inference", classification="head", restrict_to_present=False)


def without_guidance(config: Config) -> Config:
    """The same config with queries that are told nothing, and no priors to weigh on scores."""
    config = changed(config, "model", guidance=False)
    if config.train.denoise_groups:  # without words none can be wrong: that would be noise alone
        config = changed(config, "train", denoise_wrong_words=0.0)
    told = ("guidance_drop", "guidance_add", "guidance_none", "guidance_priors")
    config = changed(config, "train", **dict.fromkeys(told, 0.0))
    config = changed(config, "prior", source="none")
    return changed(config, "inference", prior_weight=0.0)


def without_contrast(config: Config) -> Config:
    """The same config without the contrastive loss.

    Nothing then teaches the region embedding the teacher's space, so the matching's similarity cost goes
    with it.
    """
    return changed(changed(config, "matcher", cost_similarity=0.0), "loss", loss_contrast=0.0)
