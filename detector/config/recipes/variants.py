"""Variants of a config: with faster training, without guidance, without contrast, or without the method."""

from __future__ import annotations

from cckt.detector.config.config import Config, changed


def faster_training(config: Config, groups: int) -> Config:
    """Return the config with guided references, denoising queries in `groups` groups, and guidance noise.

    These options helped on shapeworld (docs/ablations.md). The noise has the rates of real priors: a fifth of
    the concepts missing, two wrong ones, sometimes none at all.
    """
    config = changed(config, "model", reference="guided")
    config = changed(config, "denoise", groups=groups)
    return changed(config, "guidance", drop=0.2, add=2.0, none=0.2)


def plain(config: Config) -> Config:
    """Return the config without the method: no guidance, no contrast (loss and matching), scores of the
    head."""
    config = without_contrast(without_guidance(config))
    return changed(config, "inference", classification="head", restrict_to_present=False)


def without_guidance(config: Config) -> Config:
    """Return the config with unguided queries and without prior weighting."""
    if config.denoise.groups:  # without guidance, a wrong word for a denoising query is only noise
        config = changed(config, "denoise", wrong_words=0.0)
    config = changed(config, "guidance", enabled=False, drop=0.0, add=0.0, none=0.0, priors=0.0)
    config = changed(config, "prior", source="none")
    return changed(config, "inference", prior_weight=0.0)


def without_contrast(config: Config) -> Config:
    """Return the config without the contrastive loss.

    Nothing then aligns the region embedding with the teacher, so the similarity cost of the matching is off
    too.
    """
    config = changed(config, "matcher", cost_similarity=0.0)
    return changed(config, "terms.region_contrast", weight=0.0)
