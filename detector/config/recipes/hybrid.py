"""HD-OVD with our Deformable DETR on shapeworld, and hybrids: CCKT-Det's guidance and contrast together with
HD-OVD's levels (docs/method/hd_ovd.md, section 13)."""

from __future__ import annotations

from dataclasses import replace

from cckt.detector.config.config import Config, changed
from cckt.detector.config.recipes.cckt import coco_48_17_r50_fast
from cckt.detector.config.recipes.hdovd import query_levels
from cckt.detector.config.recipes.shapeworld import shapeworld_fast


def shapeworld_hdovd() -> Config:
    """HD-OVD with Deformable DETR on shapeworld: three levels, no guidance, no priors in the scores.

    The detector is that of `shapeworld-fast`: first boxes from encoder cells, denoising queries. The cells
    learn from all proposals, as the first stage of HD-OVD's detectors does.
    """
    config = _proposals_of_shapeworld(replace(shapeworld_fast(), recipe="shapeworld-hdovd"))
    config = query_levels(config, first_epoch=0)
    config = changed(config, "denoise", wrong_words=0.0)
    config = changed(config, "guidance", drop=0.0, add=0.0, none=0.0)
    config = changed(config, "loss", cells_learn_proposals=True)
    return changed(config, "inference", prior_weight=0.0, softmax=False)


def shapeworld_hybrid() -> Config:
    """`shapeworld-fast` with HD-OVD's class level; scores of the class level, with priors.

    CCKT-Det's guidance, contrast and class loss stay as they are. docs/ablations.md has the effect of each
    part.
    """
    config = _proposals_of_shapeworld(replace(shapeworld_fast(), recipe="shapeworld-hybrid"))
    return hybrid(config)


def hybrid_coco_r50() -> Config:
    """OV-COCO with ResNet-50: `coco-48-17-r50-fast` with HD-OVD's class level.

    12 epochs; teacher ViT-L-14, or ViT-B-32 of OpenAI for comparison with HD-OVD. Needs proposals, their
    crops and nouns. It has no known figures: it has not been trained at full size.
    """
    config = changed(replace(coco_48_17_r50_fast(), recipe="hybrid-coco-r50"), "data", proposals=5)
    return hybrid(config)


def hybrid(config: Config) -> Config:
    """Return a config of CCKT-Det with HD-OVD's class level, whose scores are weighed by the priors.

    The instance level is off: CCKT-Det's contrast already distils the objects' crops, and with both levels
    AP50 was lower on the embedded data set (docs/ablations.md).
    """
    config = changed(config, "model", text_projector=True)
    config = changed(config, "terms.novel_aware_classes", weight=1.0, noun_weight="fitted")
    return changed(
        config,
        "inference",
        classification="fusion",
        fusion_alpha=0.0,
        fusion_beta=0.0,
        nms=0.5,
        prior_weight=0.5,
        softmax=True,
    )


def _proposals_of_shapeworld(config: Config) -> Config:
    """Return the config with eight proposals per photo, whose sides exceed 12 px of 128."""
    return changed(config, "data", proposals=8, min_proposal_side=12.0)
