"""Named configs. A recipe is a function; its docstring states its source, its target figures and its cost.

cckt.py          CCKT-Det on OV-COCO and OV-LVIS
hdovd.py         HD-OVD with three students, on OV-COCO, OV-LVIS and the embedded data set
hybrid.py        HD-OVD with Deformable DETR on the embedded data set; hybrids of both methods
photos.py        real photos in small numbers, on a laptop or one small GPU
shapeworld.py    CCKT-Det on the embedded data set, for minutes on two CPU cores
variants.py      a recipe of another length, or without guidance, contrast, HD-OVD, or all of them
"""

from __future__ import annotations

import difflib
from collections.abc import Callable

from cckt.cache_builder.base.errors import UserError
from cckt.detector.config.config import Config
from cckt.detector.config.recipes.cckt import (
    coco_48_17_r50,
    coco_48_17_r50_fast,
    coco_48_17_swinb,
    lvis_r50,
    lvis_swinb,
)
from cckt.detector.config.recipes.hdovd import (
    hdovd_coco_adamixer_r50,
    hdovd_coco_deformable_r50,
    hdovd_coco_fasterrcnn_r50,
    hdovd_lvis_r50,
    shapeworld_hdovd_adamixer,
    shapeworld_hdovd_fasterrcnn,
)
from cckt.detector.config.recipes.hybrid import hybrid_coco_r50, shapeworld_hdovd, shapeworld_hybrid
from cckt.detector.config.recipes.photos import photos_medium, photos_small
from cckt.detector.config.recipes.shapeworld import shapeworld, shapeworld_fast
from cckt.detector.config.recipes.variants import (
    base_only,
    in_epochs,
    plain,
    without_contrast,
    without_guidance,
)

__all__ = ["RECIPES", "base_only", "in_epochs", "plain", "recipe", "without_contrast", "without_guidance"]

RECIPES: dict[str, Callable[[], Config]] = {
    "shapeworld": shapeworld,
    "shapeworld-fast": shapeworld_fast,
    "photos-small": photos_small,
    "photos-medium": photos_medium,
    "coco-48-17-r50": coco_48_17_r50,
    "coco-48-17-r50-fast": coco_48_17_r50_fast,
    "coco-48-17-swinb": coco_48_17_swinb,
    "lvis-r50": lvis_r50,
    "lvis-swinb": lvis_swinb,
    "hdovd-coco-adamixer-r50": hdovd_coco_adamixer_r50,
    "hdovd-coco-fasterrcnn-r50": hdovd_coco_fasterrcnn_r50,
    "hdovd-coco-deformable-r50": hdovd_coco_deformable_r50,
    "hdovd-lvis-r50": hdovd_lvis_r50,
    "hybrid-coco-r50": hybrid_coco_r50,
    "shapeworld-hdovd": shapeworld_hdovd,
    "shapeworld-hybrid": shapeworld_hybrid,
    "shapeworld-hdovd-fasterrcnn": shapeworld_hdovd_fasterrcnn,
    "shapeworld-hdovd-adamixer": shapeworld_hdovd_adamixer,
}
"""Name -> recipe."""


def recipe(name: str) -> Config:
    """Return the config of a recipe. Raises UserError for an unknown name, with the nearest known one."""
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=1, cutoff=0.3)
        hint = f"did you mean {near[0]!r}?" if near else "expected one of these."
        raise UserError(f"--recipe: unknown recipe {name!r} among {', '.join(RECIPES)}; {hint}")
    return RECIPES[name]()
