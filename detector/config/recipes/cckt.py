"""CCKT-Det at full size: OV-COCO and OV-LVIS (docs/method/cckt_det.md; figures of the paper in section 11).

Settings are listed as paper / released code / ours, with "-" for unknown; epochs are counted from 0.
docs/reproducing.md lists all of them, with options; section 10 has further decisions. Those of all recipes
here:

    learning rate       1e-4, x 0.1 from epoch 31 / - / 1e-4, x 0.1 from epoch 31
    contrast            after 30 epochs, from epoch 30 / in every epoch / from epoch 30
    its divisor         objects with an embedding / - / objects with an embedding
    its teacher         crop of the object / a crop of every class of the cache / crop of the object
    similarity cost     1 / - / 1, once the region embedding is trained
    text projection     - / xavier, 0.1 x learning rate / normal, learning rate
    photos without box  - / skipped / left out
    emptied views       - / skipped / kept
    fill of priors      random concepts / random concepts / none (prior.fill=random adds them)
    score               similarity / - / similarity
"""

from __future__ import annotations

from dataclasses import replace

from cckt.detector.config.config import Config, changed
from cckt.detector.config.recipes.variants import faster_training


def coco_48_17_r50() -> Config:
    """OV-COCO with ResNet-50, as in the paper: AP50 novel 38.0 with CLIP priors, 45.3 with MLLM priors.

    36 epochs of the 107,761 photos of COCO train2017 that have a base box; teacher ViT-L-14. For the paper's
    figures set prior.fill=random.

    Settings, paper / released code / ours:

        backbone weights    ImageNet-1k / torchvision V1 / torchvision V1 (timm's tag tv_in1k)
        epochs, batch       36, 12 / - / 36, 12
        queries             300 / - / 300
        present concepts    at most 6 / - / at most 6
    """
    return changed(Config(recipe="coco-48-17-r50"), "data", drop_empty_photos=True)


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

    Teacher ViT-H-14. The contrastive loss and the lower learning rate start at epoch 10, in the proportion of
    the 36-epoch schedule.

    Settings, paper / released code / ours:

        backbone            Swin-B / Swin-B, window 7, 224 px / Swin-B, window 7, 224 px
        backbone weights    ImageNet-22k / ImageNet-22k / ImageNet-22k (timm's tag ms_in22k)
        drop path           - / 0.2 / 0.2
        epochs, batch       12, 12 / - / 12, 12
        learning rate       - / - / x 0.1 from epoch 10
        contrast            - / in every epoch / from epoch 10
    """
    config = _swin(replace(coco_48_17_r50(), recipe="coco-48-17-swinb"))
    config = changed(config, "train", epochs=12, lr_drop_epoch=10)
    return changed(config, "terms.region_contrast", first_epoch=10)


def lvis_r50() -> Config:
    """OV-LVIS with ResNet-50: rare AP 18.2, AP 27.1.

    `coco-48-17-r50` except for these settings, paper / released code / ours:

        queries             600 / - / 600
        present concepts    at most 12 / - / at most 12
        detections          300 per image (LVIS) / - / 300
    """
    config = replace(coco_48_17_r50(), recipe="lvis-r50")
    config = changed(config, "model", queries=600)
    config = changed(config, "prior", limit=12)
    return changed(config, "inference", top=300)


def lvis_swinb() -> Config:
    """OV-LVIS with Swin-B: rare AP 32.8, AP 44.3, with pseudo annotations (boxes over 0.9 added as base).

    `lvis-r50` except for these settings, paper / released code / ours:

        backbone            Swin-B / Swin-B, window 7, 224 px / Swin-B, window 7, 224 px
        backbone weights    ImageNet-22k / ImageNet-22k / ImageNet-22k (timm's tag ms_in22k)
        drop path           - / 0.2 / 0.2
    """
    return _swin(replace(lvis_r50(), recipe="lvis-swinb"))


def _swin(config: Config) -> Config:
    return changed(
        config,
        "model",
        backbone="swin_base_patch4_window7_224",
        backbone_weights="tag:ms_in22k",
        drop_path=0.2,
        freeze_stride=0,
    )
