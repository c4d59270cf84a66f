"""Variants of a config: of another length, with faster training, without guidance, contrast or both."""

from __future__ import annotations

from cckt.cache_builder.base.errors import UserError
from cckt.detector.config.config import Config, changed


def in_epochs(config: Config, epochs: int) -> Config:
    """Return the config with `epochs` epochs; lower rates and terms start at the same share of them.

    What starts within the schedule starts within the shorter one too, in its last epoch at the latest: a
    contrast that never starts would leave a similarity that nothing trained.
    """
    if epochs < 1:
        raise UserError(f"--epochs {epochs}: expected at least 1.")
    before, last = config.train.epochs, epochs - 1

    def at(epoch: int) -> int:
        share = round(epoch * epochs / before)
        return min(last, share) if epoch < before else max(epochs, share)

    drops = {name: getattr(config.train, name) for name in ("lr_drop_epoch", "lr_second_drop_epoch")}
    drops = {
        name: max(1, at(epoch)) if epoch else 0 for name, epoch in drops.items()
    }  # never the first epoch
    config = changed(config, "train", epochs=epochs, **drops)
    for name, term in config.terms.items():
        config = changed(config, f"terms.{name}", first_epoch=at(term.first_epoch))
    return config


def faster_training(config: Config, groups: int) -> Config:
    """Return the config with guided references, denoising queries in `groups` groups, and guidance noise.

    These options helped on shapeworld (docs/ablations.md). The noise has the rates of real priors: a fifth of
    the concepts missing, two wrong ones, sometimes none at all.
    """
    config = changed(config, "model", reference="guided")
    config = changed(config, "denoise", groups=groups)
    return changed(config, "guidance", drop=0.2, add=2.0, none=0.2)


def plain(config: Config) -> Config:
    """Return the config without the method: no guidance, no contrast (loss and matching), no part of HD-OVD,
    scores of the head."""
    config = without_contrast(without_guidance(config))
    if config.data.proposals or not config.loss.loss_class:
        config = base_only(config)
    return changed(config, "inference", classification="head", restrict_to_present=False)


def base_only(config: Config) -> Config:
    """Return the config of the same student without HD-OVD: it learns base boxes, and classes by its own
    head."""
    config = changed(config, "matcher", class_agnostic=False, cost_similarity=0.0)
    for name in config.terms:
        config = changed(config, f"terms.{name}", weight=0.0)
    config = changed(
        config, "model", objectness=False, text_projector=False, relation_head=False, image_head=False
    )
    config = changed(config, "loss", loss_class=1.0 if config.model.student == "faster_rcnn" else 2.0)
    config = changed(config, "data", proposals=0)
    return changed(config, "inference", classification="head")


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
