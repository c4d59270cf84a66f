"""HD-OVD at full size, and its students on shapeworld (docs/method/hd_ovd.md, sections 7 to 9).

Settings are listed as paper (released code) / ours, with "-" for unknown; epochs are counted from 0. The
recipes of COCO follow the released code, except for these decisions, which hold for all of them:

    proposals           object-centric boxes of MAVL (presumably) / the table that cckt cache proposals made
    text prompts        DetPro / the templates of cckt cache text
    weights of nouns    constants of ViT-B/32 with DetPro / those that cckt cache nouns fitted to its teacher
    batch norm          synchronised / of each rank
    repeated nouns      a column each / one column per string
    nouns of base names a column each / left out
    prototypes          one count of updates / a count per class
    least score         0.005 or 0.05 / none: the best detections of a photo are kept
    photos without box  dropped / left out: 107,761 of COCO train2017 remain
"""

from __future__ import annotations

from dataclasses import replace

from cckt.detector.config.config import Config, changed
from cckt.detector.config.recipes.cckt import coco_48_17_r50
from cckt.detector.config.recipes.shapeworld import shapeworld


def hdovd_coco_adamixer_r50() -> Config:
    """OV-COCO with AdaMixer R50: AP50 novel 46.4 (the released checkpoint is "slightly lower").

    12 epochs of COCO train2017, about 81k steps of 16 photos, on 4 GPUs; teacher ViT-B-32 of OpenAI. It has
    not been trained at full size here.

    Settings, released / ours:

        optimiser           AdamW, 5e-5, weight decay 1e-4, clip 1.0 / same
        learning rate       x 0.1 after epochs 8 and 11; warm-up of 500 steps from 1e-3 / same
        backbone weights    torchvision / torchvision V1 (timm's tag tv_in1k); nothing frozen
        input               short side 800, long side at most 1333, flip 0.5 / same
        distillation        from epoch 1 / from epoch 1; nouns already join the classes in epoch 0
        generic text        the name "whole entity" / a learned embedding of the dense boxes
    """
    config = _schedule(Config(recipe="hdovd-coco-adamixer-r50"))
    config = changed(
        config,
        "model",
        student="adamixer",
        norm="batch",
        freeze_stride=0,
        strides=(4, 8, 16, 32),
        levels=5,
        ffn=2048,
        dropout=0.0,
    )
    config = changed(config, "train", lr=5e-5, clip_norm=1.0)
    config = query_levels(config, first_epoch=1)
    return changed(config, "inference", nms=0.7)


def hdovd_coco_fasterrcnn_r50() -> Config:
    """OV-COCO with Faster R-CNN R50-FPN; figures of the paper were not found.

    12 epochs of COCO train2017, about 81k steps of 16 photos, on 4 GPUs; teacher ViT-B-32 of OpenAI. It has
    not been trained at full size here.

    Settings, released / ours:

        optimiser           SGD, 0.02, momentum 0.9, weight decay 1e-4, no clipping / same
        learning rate       x 0.1 after epochs 8 and 11; warm-up of 500 steps from 1e-3 / same
        backbone            stem and first stage frozen, batch norm frozen / same
        input               short side 800, long side at most 1333, flip 0.5 / same
        distillation        from epoch 0; no gates, no relation head / same
        student of a pair   mean of raw RoI embeddings / mean of RoI embeddings of unit length
    """
    config = _schedule(Config(recipe="hdovd-coco-fasterrcnn-r50"))
    config = changed(config, "model", student="faster_rcnn", strides=(4, 8, 16, 32), levels=5)
    config = changed(config, "train", optimizer="sgd", lr=0.02, clip_norm=0.0)
    config = roi_levels(config)
    return changed(config, "inference", nms=0.5)


def hdovd_coco_deformable_r50() -> Config:
    """OV-COCO with Deformable DETR R50 and HD-OVD's three levels: ours, without figures of the paper.

    The detector, data and schedule are those of `coco-48-17-r50`: 36 epochs of COCO train2017, 12 photos per
    step; the levels start at epoch 3, in the proportion of AdaMixer's 12 epochs. Teacher ViT-B-32 of OpenAI.
    It has not been trained at full size.
    """
    config = replace(coco_48_17_r50(), recipe="hdovd-coco-deformable-r50")
    config = changed(config, "data", proposals=5)
    config = query_levels(config, first_epoch=3)
    return changed(config, "inference", nms=0.7)


def hdovd_lvis_r50() -> Config:
    """OV-LVIS with AdaMixer R50: from a branch of the released code that has no config; figures were not
    found.

    `hdovd-coco-adamixer-r50` except for these settings, released / ours:

        classes of a photo  at most 50 base classes: those present, then drawn / 50, all present ones kept
        odds of a draw      (photos of the class)^0.5 / the same, of the photos that the run showed so far
        detections          - / 300 per photo (LVIS)
    """
    config = replace(hdovd_coco_adamixer_r50(), recipe="hdovd-lvis-r50")
    config = changed(config, "terms.novel_aware_classes", bank=50)
    return changed(config, "inference", top=300)


def shapeworld_hdovd_fasterrcnn() -> Config:
    """HD-OVD with a small Faster R-CNN on shapeworld, for minutes on two CPU cores."""
    config = faster_rcnn_of_shapeworld(replace(shapeworld(), recipe="shapeworld-hdovd-fasterrcnn"))
    config = changed(config, "data", proposals=5, min_proposal_side=12.0)
    return roi_levels(config)


def shapeworld_hdovd_adamixer() -> Config:
    """HD-OVD with a small AdaMixer on shapeworld, for minutes on two CPU cores."""
    config = adamixer_of_shapeworld(replace(shapeworld(), recipe="shapeworld-hdovd-adamixer"))
    config = changed(config, "data", proposals=5, min_proposal_side=12.0)
    return query_levels(config, first_epoch=0)


def query_levels(config: Config, first_epoch: int) -> Config:
    """Return the config with HD-OVD's three levels and matching, for students with queries (eq. 48).

    first_epoch: of all terms but the classes.
    """
    config = _without_cckt(config)
    config = changed(
        config, "model", objectness=True, text_projector=True, relation_head=True, image_head=True
    )
    config = changed(config, "matcher", class_agnostic=True)
    config = changed(config, "terms.instance_contrast", weight=0.5, first_epoch=first_epoch)
    config = changed(config, "terms.instance_relation", weight=5.0, first_epoch=first_epoch)
    config = changed(config, "terms.novel_aware_classes", weight=0.5, noun_weight="fitted")
    config = changed(config, "terms.text_relation", weight=5.0, first_epoch=first_epoch, noun_weight="fitted")
    config = changed(config, "terms.image_contrast", weight=0.2, first_epoch=first_epoch)
    return changed(config, "inference", classification="fusion", fusion_alpha=0.35, fusion_beta=0.65)


def roi_levels(config: Config) -> Config:
    """Return the config with HD-OVD's levels for Faster R-CNN, from epoch 0 (eq. 49)."""
    config = _without_cckt(config)
    config = changed(config, "model", text_projector=True, image_head=True)
    config = changed(config, "terms.instance_contrast", weight=0.1, gate=0.0)
    config = changed(config, "terms.instance_relation", weight=1.0, gate=0.0)
    config = changed(
        config,
        "terms.novel_aware_classes",
        weight=1.0,
        gate=0.0,
        background_gate=1.0,
        background_weight=1.0,
        divisor="regions",
        noun_weight="fitted",
    )
    config = changed(config, "terms.image_contrast", weight=0.1)
    return changed(
        config,
        "inference",
        classification="fusion",
        fusion_alpha=0.25,
        fusion_beta=0.45,
        fusion_second="sigmoid",
    )


def faster_rcnn_of_shapeworld(config: Config) -> Config:
    """Return a config of shapeworld with a small Faster R-CNN: anchors of 20, 40 and 80 px."""
    config = changed(config, "model", student="faster_rcnn", strides=(4, 8, 16), levels=3)
    config = changed(config, "model", class_embedding="own")
    config = changed(config, "inference", nms=0.5)
    return changed(
        config,
        "faster_rcnn",
        anchor_scale=5.0,
        train_boxes_per_level=200,
        train_boxes=100,
        boxes_per_level=200,
        boxes=100,
        rois=64,
        roi_cells=5,
        roi_side=20.0,
        head_width=256,
    )


def adamixer_of_shapeworld(config: Config) -> Config:
    """Return a config of shapeworld with a small AdaMixer: three stages, dense boxes at strides 8 and 16."""
    config = changed(config, "model", student="adamixer", strides=(4, 8, 16), levels=3)
    config = changed(config, "model", class_embedding="own")
    config = changed(config, "inference", nms=0.5)
    return changed(
        config,
        "adamixer",
        groups=2,
        points_in=8,
        points_out=16,
        point_scale=-2.0,
        dense_per_level=100,
        dense_scale=10.0,
    )


def _schedule(config: Config) -> Config:
    """Return the config with the data and the schedule of the released configs (section 9)."""
    config = changed(
        config,
        "data",
        short_sides=(800,),
        max_side=1333,
        random_crop=False,
        flip=0.5,
        proposals=5,
        drop_empty_photos=True,
    )
    return changed(
        config,
        "train",
        epochs=12,
        batch=16,
        backbone_lr_factor=1.0,
        sampling_lr_factor=1.0,
        lr_drop_epoch=8,
        lr_second_drop_epoch=11,
        warmup_steps=500,
        warmup_ratio=1e-3,
    )


def _without_cckt(config: Config) -> Config:
    """Return the config without guidance, CCKT-Det's contrast and the class head's loss."""
    config = changed(config, "guidance", enabled=False)
    config = changed(config, "prior", source="none")
    config = changed(config, "terms.region_contrast", weight=0.0)
    config = changed(config, "matcher", cost_similarity=0.0)
    return changed(config, "loss", loss_class=0.0)
