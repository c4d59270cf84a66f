"""CCKT-Det at full size: OV-COCO and OV-LVIS (docs/method/cckt_det.md; figures of the paper in section
11)."""

from __future__ import annotations

from dataclasses import replace

from cckt.detector.config.config import Config, changed
from cckt.detector.config.recipes.variants import faster_training


def coco_48_17_r50() -> Config:
    """OV-COCO with ResNet-50, as in the paper: AP50 novel 38.0 with CLIP priors, 45.3 with MLLM priors.

    36 epochs of COCO train2017; teacher ViT-L-14. For the paper's figures set prior.fill=random.
    """
    return Config(recipe="coco-48-17-r50")


def coco_48_17_r50_fast() -> Config:
    """`coco-48-17-r50` in 12 epochs, with guided references, denoising queries and guidance noise.

    The lower learning rate and the contrastive loss start at epoch 10, in the proportion of the 36-epoch
    schedule. It has no known figures: it has not been trained at full size.
    """
    config = faster_training(replace(coco_48_17_r50(), recipe="coco-48-17-r50-fast"), groups=5)
    config = changed(config, "train", epochs=12, lr_drop_epoch=10)
    return changed(config, "terms.region_contrast", first_epoch=10)


def coco_48_17_swinb() -> Config:
    """OV-COCO with Swin-B from ImageNet-22k: AP50 novel 41.9 with CLIP priors, 46.0 with MLLM priors.

    12 epochs with teacher ViT-H-14. The contrastive loss and the lower learning rate are on in the last two,
    in the proportion of the 36-epoch schedule.
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


def _swin(config: Config, epochs: int, second_phase: int) -> Config:
    config = changed(
        config,
        "model",
        backbone="swin_base_patch4_window12_384",
        backbone_weights="tag:ms_in22k",
        freeze_stride=0,
    )
    config = changed(config, "train", epochs=epochs, lr_drop_epoch=second_phase)
    return changed(config, "terms.region_contrast", first_epoch=second_phase)
