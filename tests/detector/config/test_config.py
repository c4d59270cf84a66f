"""Config: defaults, checks, overrides, TOML."""

from __future__ import annotations

import ast
import dataclasses
from dataclasses import replace
from pathlib import Path

import pytest

from cckt.cache_builder.base.errors import UserError
from cckt.detector.config.config import (
    Config,
    ModelConfig,
    TrainConfig,
    apply_overrides,
    changed,
    load_config,
    save_config,
)
from cckt.detector.config.dataclass_io import option_names
from cckt.detector.config.recipes import RECIPES, plain, recipe
from cckt.detector.config.renamed import RENAMED
from cckt.detector.config.terms import RegionContrastConfig
from tests.places import ROOT


def test_no_overrides_change_nothing() -> None:
    assert apply_overrides(Config(), []) == Config()


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_have_their_name_and_survive_a_round_trip(name: str, tmp_path: Path) -> None:
    config = recipe(name)
    assert config.recipe == name
    assert Config.from_dict(config.to_dict()) == config
    save_config(config, tmp_path / "config.toml")
    assert load_config(tmp_path / "config.toml") == config
    assert [path.name for path in tmp_path.iterdir()] == ["config.toml"]
    assert (RECIPES[name].__doc__ or "").strip()


def test_the_default_recipe_is_the_papers() -> None:
    config = recipe("coco-48-17-r50")
    assert config == changed(Config(), "data", drop_empty_photos=True)
    model, train, contrast = config.model, config.train, config.terms["region_contrast"]
    assert (model.queries, model.encoder_layers, model.decoder_layers, model.heads, model.points) == (
        300,
        6,
        6,
        8,
        4,
    )
    assert (model.hidden, model.ffn, model.dropout, model.levels, model.strides) == (
        256,
        1024,
        0.1,
        4,
        (8, 16, 32),
    )
    assert (train.epochs, train.batch, train.lr, train.weight_decay, train.clip_norm) == (
        36,
        12,
        1e-4,
        1e-4,
        0.1,
    )
    assert (train.lr_drop_epoch, contrast.first_epoch, model.tau) == (31, 30, 0.07)
    assert (model.backbone, model.backbone_weights, model.drop_path) == ("resnet50", "tag:tv_in1k", 0.0)
    assert (config.prior.rho, config.prior.limit, config.inference.top) == (0.7, 6, 100)
    lvis = recipe("lvis-r50")
    assert (lvis.model.queries, lvis.prior.limit, lvis.inference.top) == (600, 12, 300)
    for name, epochs, phases in (("coco-48-17-swinb", 12, (10, 10)), ("lvis-swinb", 36, (31, 30))):
        swin = recipe(name)
        found = (swin.model.backbone, swin.model.backbone_weights, swin.model.drop_path)
        assert found == ("swin_base_patch4_window7_224", "tag:ms_in22k", 0.2)
        assert swin.train.epochs == epochs
        assert (swin.train.lr_drop_epoch, swin.terms["region_contrast"].first_epoch) == phases


def test_plain_removes_the_method_and_nothing_else() -> None:
    config = recipe("shapeworld")
    bare = plain(config)
    assert not bare.guidance.enabled
    assert bare.matcher.cost_similarity == bare.terms["region_contrast"].weight == 0
    assert bare.inference.classification == "head"
    assert (bare.train, bare.data, bare.model) == (config.train, config.data, config.model)
    assert replace(bare.guidance, enabled=True) == config.guidance


@pytest.mark.parametrize("name", [name for name in RECIPES if "hdovd" in name or "hybrid" in name])
def test_plain_removes_hd_ovd_too(name: str) -> None:
    bare = plain(recipe(name))
    assert bare.loss.loss_class > 0, "the class head, which scores, must learn"
    assert (bare.inference.classification, bare.data.proposals) == ("head", 0)
    assert not any(term.weight for term in bare.terms.values())
    model = bare.model
    assert not any((model.objectness, model.text_projector, model.relation_head, model.image_head))


def test_overrides_are_converted_to_the_type_of_the_option() -> None:
    config = apply_overrides(
        Config(),
        [
            "train.epochs=12",
            "train.lr = 3e-4",
            "guidance.enabled=false",
            "model.strides=(8, 16)",
            "model.levels=3",
            "data.mean=[0.5,0.5,0.5]",
            "prior.fill=top",
            "model.backbone_weights=none",
        ],
    )
    assert config.train == replace(TrainConfig(), epochs=12, lr=3e-4)
    assert config.model == replace(ModelConfig(), strides=(8, 16), levels=3, backbone_weights="none")
    assert not config.guidance.enabled
    assert config.data.mean == (0.5, 0.5, 0.5)
    assert config.prior.fill == "top"


def test_overrides_are_checked_together() -> None:
    # Each of them by itself is refused: the levels must be at least the strides.
    config = apply_overrides(Config(), ["model.levels=1", "model.strides=32"])
    assert config.model.strides == (32,)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train.epoch=3", "--set: unknown option 'train.epoch'; did you mean 'train.epochs'?"),
        ("train.queries=3", "--set: unknown option 'train.queries'; did you mean 'model.queries'?"),
        ("epochs=3", "--set: unknown option 'epochs'; did you mean 'train.epochs'?"),
        (
            "train.epochs",
            "--set: found 'train.epochs', expected section.option=value, such as train.epochs=12.",
        ),
        ("train.epochs=many", "option train.epochs: found 'many', expected a whole number."),
        ("train.epochs=1.5", "option train.epochs: found '1.5', expected a whole number."),
        ("train.lr=nan", "option train.lr: found 'nan', expected a number."),
        ("guidance.enabled=maybe", "option guidance.enabled: found 'maybe', expected true or false."),
        (
            "terms.region_contrast.negatives=all",
            "option terms.region_contrast.negatives: found 'all', expected one of 'image', 'batch'.",
        ),
        ("model.strides=8,x", "option model.strides: found 'x', expected a whole number."),
        ("model.hidden=100", "option model.hidden: found 100, expected a multiple of 32"),
        ("model.heads=5", "option model.heads: found 5, expected a divisor of hidden 256"),
        ("model.strides=16,8", "option model.strides: found (16, 8), expected rising strides"),
        ("model.levels=2", "option model.levels: found 2, expected at least the 3 strides"),
        ("model.queries=0", "option model.queries: found 0, expected at least 1"),
        ("model.dropout=1", "option model.dropout: found 1.0, expected a number from 0 to below 1"),
        ("model.drop_path=1", "option model.drop_path: found 1.0, expected a number from 0 to below 1"),
        ("model.tau=0", "option model.tau: found 0.0, expected a number above 0"),
        ("prior.rho=1.5", "option prior.rho: found 1.5, expected a number from 0 to 1"),
        ("train.lr=0", "option train.lr: found 0.0, expected a number above 0"),
        ("train.accumulate=5", "option train.accumulate: found 5, expected a divisor of batch 12"),
        ("data.mean=1,2", "option data.mean: found (1.0, 2.0), expected three numbers"),
        ("data.max_side=100", "option data.max_side: found 100, expected at least the largest short side"),
        ("inference.top=0", "option inference.top: found 0, expected at least 1"),
    ],
)
def test_a_mistake_gives_a_message_of_one_sentence(text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        apply_overrides(Config(), [text])
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_an_unknown_option_without_a_similar_one_lists_those_of_its_section_or_the_sections() -> None:
    with pytest.raises(
        UserError, match=r"unknown option '###'; expected SECTION.OPTION=VALUE .*adamixer, data"
    ):
        apply_overrides(Config(), ["###=1"])
    with pytest.raises(
        UserError, match=r"'prior\.#{30}'; expected one of prior\.fill, prior\.limit, [^=]*source.$"
    ):
        apply_overrides(Config(), ["prior.##############################=1"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[train]\nepoch = 3", r"my\.toml: unknown option 'train\.epoch'; did you mean 'train\.epochs'\?"),
        ("train = 3", r"my\.toml: option train is a section, found 3"),
        ("[train", r"my\.toml: found no readable TOML"),
        ("[train]\nepochs = true", r"option train\.epochs: found True, expected a whole number"),
    ],
)
def test_the_message_of_a_mistake_in_a_file_names_the_file(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        load_config(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.toml: no such file"):
        load_config(tmp_path / "nowhere.toml")


def test_a_file_overrides_a_recipe(tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    path.write_text("[train]\nepochs = 3\n")
    base = recipe("shapeworld")
    assert load_config(path, base) == changed(base, "train", epochs=3)


@pytest.mark.parametrize(
    ("name", "hint"), [("coco-48-17-r5", "did you mean 'coco-48-17-r50'"), ("§", "expected one of these")]
)
def test_an_unknown_recipe_is_refused_with_a_hint(name: str, hint: str) -> None:
    with pytest.raises(UserError, match=hint):
        recipe(name)


SECTIONS = ("model", "students", "method", "terms", "data", "train", "inference")


@pytest.mark.parametrize("section", SECTIONS)
def test_every_option_has_a_docstring(section: str) -> None:
    source = ROOT / "detector" / "config" / f"{section}.py"
    undocumented = []
    for owner in (node for node in ast.parse(source.read_text()).body if isinstance(node, ast.ClassDef)):
        assert ast.get_docstring(owner), owner.name
        for here, after in zip(owner.body, [*owner.body[1:], None], strict=True):
            text = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            if isinstance(here, ast.AnnAssign) and not text:
                undocumented.append(f"{owner.name}.{ast.unparse(here.target)}")
    assert undocumented == []


def test_every_old_name_points_to_an_option(tmp_path: Path) -> None:
    known = option_names(Config())
    assert set(RENAMED.values()) <= set(known)
    assert not set(RENAMED) & set(known)
    for old, new in RENAMED.items():
        with pytest.raises(UserError, match=rf"--set: option {old} is now {new}; use that name"):
            apply_overrides(Config(), [f"{old}=1"])


def test_the_config_of_an_old_run_loads(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(
        '[model]\nguidance = false\nclass_head = "text"\n[loss]\ntau = 0.1\nnegatives = "batch"\n'
        "loss_contrast = 0.25\n[train]\nguidance_drop = 0.2\none_to_many = 3\nepochs = 4\n"
    )
    config = load_config(path)
    assert (config.guidance.enabled, config.guidance.drop, config.model.tau) == (False, 0.2, 0.1)
    assert (config.one_to_many.repeats, config.train.epochs) == (3, 4)
    contrast = config.terms["region_contrast"]
    assert isinstance(contrast, RegionContrastConfig)
    assert (contrast.weight, contrast.negatives) == (0.25, "batch")
    path.write_text('[model]\nclass_head = "linear"\n')
    with pytest.raises(
        UserError, match=r"model\.class_head is 'linear', but this version supports only 'text'"
    ):
        load_config(path)
    with pytest.raises(UserError, match=r"--set: option model\.class_head no longer exists; remove it"):
        apply_overrides(Config(), ["model.class_head=text"])


def test_terms_are_sections_by_name() -> None:
    config = apply_overrides(Config(), ["terms.region_contrast.weight=0.5"])
    assert config.terms["region_contrast"].weight == 0.5
    assert Config().terms["region_contrast"].weight == 1.0
    with pytest.raises(
        UserError, match=r"option terms\.region_contrast\.weight: found -1\.0, expected at least 0"
    ):
        apply_overrides(Config(), ["terms.region_contrast.weight=-1"])
    with pytest.raises(
        UserError, match=r"unknown option 'terms\.region'; did you mean 'terms\.region_contrast'"
    ):
        Config.from_dict({"terms": {"region": {"weight": 1}}})


def test_configs_are_immutable() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().recipe = "other"  # type: ignore[misc]


def test_the_recipes_of_hd_ovd_have_the_released_settings() -> None:
    mixer, rcnn = recipe("hdovd-coco-adamixer-r50"), recipe("hdovd-coco-fasterrcnn-r50")
    for config in (mixer, rcnn):
        train = config.train
        assert (train.epochs, train.batch, train.lr_drop_epoch, train.lr_second_drop_epoch) == (12, 16, 8, 11)
        assert (train.warmup_steps, train.warmup_ratio, train.backbone_lr_factor) == (500, 1e-3, 1.0)
        assert (config.data.short_sides, config.data.proposals, config.data.random_crop) == ((800,), 5, False)
        assert not config.guidance.enabled
        assert config.loss.loss_class == config.terms["region_contrast"].weight == 0
        assert (config.model.strides, config.model.levels) == ((4, 8, 16, 32), 5)
    names = (
        "instance_contrast",
        "instance_relation",
        "novel_aware_classes",
        "text_relation",
        "image_contrast",
    )
    assert [mixer.terms[name].weight for name in names] == [0.5, 5.0, 0.5, 5.0, 0.2]
    assert [mixer.terms[name].first_epoch for name in names] == [1, 1, 0, 1, 1]
    assert [rcnn.terms[name].weight for name in names] == [0.1, 1.0, 1.0, 0.0, 0.1]
    assert (mixer.train.optimizer, mixer.train.lr, mixer.train.clip_norm) == ("adamw", 5e-5, 1.0)
    assert (rcnn.train.optimizer, rcnn.train.lr, rcnn.train.clip_norm) == ("sgd", 0.02, 0.0)
    assert (mixer.inference.fusion_alpha, mixer.inference.fusion_beta, mixer.inference.nms) == (
        0.35,
        0.65,
        0.7,
    )
    assert (rcnn.inference.fusion_alpha, rcnn.inference.fusion_beta, rcnn.inference.nms) == (0.25, 0.45, 0.5)
    assert (mixer.inference.fusion_second, rcnn.inference.fusion_second) == ("softmax", "sigmoid")
    assert recipe("hdovd-lvis-r50").terms["novel_aware_classes"].bank == 50  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("faster_rcnn.rois=0", "option faster_rcnn.rois: found 0, expected at least 1"),
        (
            "faster_rcnn.anchor_ratios=0",
            "option faster_rcnn.anchor_ratios: found (0.0,), expected one or more",
        ),
        (
            "faster_rcnn.rpn_negative_iou=0.8",
            "option faster_rcnn.rpn_negative_iou: found 0.8, expected at most",
        ),
        ("adamixer.dense_scale=0", "option adamixer.dense_scale: found 0.0, expected a number above 0"),
        ("adamixer.points_in=0", "option adamixer.points_in: found 0, expected at least 1"),
        ("train.warmup_ratio=2", "option train.warmup_ratio: found 2.0, expected a number from 0 to 1"),
        ("train.momentum=1", "option train.momentum: found 1.0, expected a number from 0 to below 1"),
    ],
)
def test_options_of_students_are_checked(text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        apply_overrides(Config(), [text])
    assert str(caught.value).startswith(message)
