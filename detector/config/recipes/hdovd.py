"""HD-OVD (docs/method/hd_ovd.md)."""

from __future__ import annotations

from dataclasses import replace

from cckt.detector.config.config import Config, changed
from cckt.detector.config.recipes.shapeworld import shapeworld


def shapeworld_faster_rcnn(config: Config) -> Config:
    """Return a shapeworld config with Faster R-CNN."""
    config = changed(
        config, "model", student="faster_rcnn", strides=(4, 8, 16), levels=4, class_embedding="own"
    )
    config = changed(config, "guidance", enabled=False)
    config = changed(config, "matcher", cost_similarity=0.0)
    config = changed(config, "prior", source="none")
    config = changed(config, "loss", loss_class=1.0)
    config = changed(config, "inference", nms=0.5, classification="head")
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


def shapeworld_hdovd_fasterrcnn() -> Config:
    """Draft."""
    config = replace(shapeworld(), recipe="shapeworld-hdovd-fasterrcnn")
    return shapeworld_faster_rcnn(config)


def shapeworld_adamixer(config: Config) -> Config:
    """Return a shapeworld config with AdaMixer."""
    config = changed(
        config, "model", student="adamixer", strides=(4, 8, 16), levels=4, class_embedding="own", queries=50
    )
    config = changed(config, "guidance", enabled=False)
    config = changed(config, "matcher", cost_similarity=0.0)
    config = changed(config, "prior", source="none")
    config = changed(config, "inference", nms=0.5, classification="head")
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


def shapeworld_hdovd_adamixer() -> Config:
    """Draft."""
    config = replace(shapeworld(), recipe="shapeworld-hdovd-adamixer")
    return shapeworld_adamixer(config)
