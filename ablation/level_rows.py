"""Rows of the table of levels: HD-OVD's parts, CCKT-Det and the hybrid, as changed options of a recipe.

docs/method/hd_ovd.md, section 10 (Tables V and VI of the paper). Every row has the student, the photos and
the training of the recipe.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from cckt.ablation.plan import AblationPlan
from cckt.cache_builder.base.errors import UserError
from cckt.detector.config.config import Config, apply_overrides, changed
from cckt.detector.config.recipes import base_only, in_epochs, recipe
from cckt.detector.config.recipes.hdovd import query_levels, roi_levels
from cckt.detector.config.recipes.hybrid import hybrid

INSTANCE = ("instance_contrast", "instance_relation")
CLASS = ("novel_aware_classes", "text_relation")
IMAGE = ("image_contrast",)
"""Terms of the three levels."""
NEEDED = {"relation_head": ("text_projector", "relation_head")}
"""Head of a term -> options of the model that turn it on, where these are several."""


@dataclass(frozen=True)
class LevelRow:
    """A row of the table that is trained.

    config: without prior weighting. prior_weight: weight of the priors in the method's own scores, which a
    second row shows; 0 where they do not count.
    """

    key: str
    label: str
    config: Config
    prior_weight: float


def level_rows(plan: AblationPlan) -> list[LevelRow]:
    """Return the rows of the table, from the recipe with the plan's options.

    Raises UserError if the recipe has no proposals, or no level of HD-OVD.
    """
    full = plan.started()
    terms = sum(full.terms[name].weight > 0 for name in (*INSTANCE, *CLASS, *IMAGE))
    if not full.data.proposals or not terms:
        raise UserError(
            f"--recipe {plan.recipe}: found data.proposals {full.data.proposals} and {terms} terms of "
            "HD-OVD, expected both above 0, since the table adds them one by one; give a recipe of HD-OVD or "
            "a hybrid, such as --recipe shapeworld-hdovd."
        )
    levels, cckt = hd_of(full), cckt_of(full, plan)
    mixed = full if full.trains_cckt else hybrid_of(full, cckt, plan)
    found = (
        ("base", "base detector", base_only(levels)),
        ("pseudo-boxes", "+ pseudo boxes", pseudo_boxes(levels)),
        ("instance", "+ pseudo boxes + instance", one_level(levels, INSTANCE)),
        ("class", "+ pseudo boxes + class", one_level(levels, CLASS)),
        ("image", "+ pseudo boxes + image", one_level(levels, IMAGE)),
        ("all", "HD-OVD, all levels", levels),
        ("cckt", "CCKT-Det", cckt),
        ("hybrid", "hybrid of both methods", mixed),
    )
    rows = []
    for key, label, config in found:
        weight = config.inference.prior_weight if config.prior.cached else 0.0
        rows.append(LevelRow(key, label, changed(config, "inference", prior_weight=0.0), weight))
    return rows


def hd_of(full: Config) -> Config:
    """Return HD-OVD with all levels of a recipe of HD-OVD, which it is itself, or of a hybrid."""
    if not full.trains_cckt:
        return full
    if full.model.student == "faster_rcnn":
        config = roi_levels(full)
    else:
        config = query_levels(full, first_epoch=full.terms["novel_aware_classes"].first_epoch)
    config = changed(config, "guidance", drop=0.0, add=0.0, none=0.0, priors=0.0)
    config = changed(config, "denoise", wrong_words=0.0)
    if config.model.reference != "learned":
        config = changed(config, "loss", cells_learn_proposals=True)
    return changed(config, "inference", prior_weight=0.0, softmax=False)


def hybrid_of(full: Config, cckt: Config, plan: AblationPlan) -> Config:
    """Return the hybrid of a recipe of HD-OVD and its CCKT-Det, with the options and the NMS of the plan."""
    config = hybrid(changed(cckt, "data", proposals=full.data.proposals))
    config = changed(config, "inference", nms=full.inference.nms, top=full.inference.top)
    return apply_overrides(config, plan.overrides)


def pseudo_boxes(levels: Config) -> Config:
    """Return the base detector with proposals as class-agnostic positives: boxes, objectness and matching."""
    config = changed(base_only(levels), "data", proposals=levels.data.proposals)
    config = changed(config, "model", objectness=levels.model.objectness)
    return changed(config, "matcher", class_agnostic=levels.matcher.class_agnostic)


def one_level(levels: Config, terms: tuple[str, ...]) -> Config:
    """Return `pseudo_boxes` with the terms of one level, their heads, and scores that read what they train.

    The class level replaces the class head, as in the recipe. Its second score is left out where no relation
    head trains it. Without the class level the class head scores; if it has an embedding of its own, together
    with the similarity of the region embedding that the instance level trains.
    """
    config = pseudo_boxes(levels)
    for name in terms:
        term = levels.terms[name]
        config = replace(config, terms={**config.terms, name: term})
        for head in term.heads if term.weight else ():
            config = changed(config, "model", **dict.fromkeys(NEEDED.get(head, (head,)), True))
    if terms == CLASS:
        config = replace(config, inference=levels.inference)
        config = changed(config, "loss", loss_class=levels.loss.loss_class)
        if not config.model.relation_head:
            config = changed(config, "inference", fusion_alpha=0.0, fusion_beta=0.0)
    elif terms == INSTANCE and config.model.class_embedding == "own":
        config = changed(config, "inference", classification="product")
    return config


def cckt_of(full: Config, plan: AblationPlan) -> Config:
    """Return CCKT-Det with the student, the photos and the training of a recipe.

    Students that cannot be guided have its contrast only.
    """
    partner, config = _partner(full, plan), base_only(full)
    contrast = in_epochs(partner, full.train.epochs).terms["region_contrast"]
    config = replace(
        config,
        terms={**config.terms, "region_contrast": contrast},
        matcher=partner.matcher,
        loss=changed(partner, "loss", loss_class=config.loss.loss_class).loss,
    )
    config = changed(config, "denoise", wrong_words=partner.denoise.wrong_words)
    scoring = replace(partner.inference, nms=full.inference.nms, top=full.inference.top)
    config = replace(config, inference=replace(scoring, batch=full.inference.batch))
    if full.model.student == "deformable_detr":
        config = replace(config, guidance=partner.guidance, prior=partner.prior)
    return config


def _partner(full: Config, plan: AblationPlan) -> Config:
    """Return the recipe of CCKT-Det for the data of a recipe, with the plan's options."""
    guided = full.model.reference == "guided"
    if full.recipe.startswith("shapeworld"):
        name = "shapeworld-fast" if guided or full.model.student != "deformable_detr" else "shapeworld"
    elif "lvis" in full.recipe:
        name = "lvis-r50"
    else:
        name = "coco-48-17-r50-fast" if guided else "coco-48-17-r50"
    config = recipe(name) if plan.epochs is None else in_epochs(recipe(name), plan.epochs)
    return apply_overrides(config, plan.overrides)
