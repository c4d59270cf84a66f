"""Backbones: feature maps of any multi-scale timm model, for images of any size, and the pyramid over them.

Shape legend: B images, H and W their sides in pixels, h and w sides of a feature map in cells, d hidden size.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.layers import FrozenBatchNormAct2d, freeze_batch_norm_2d
from timm.models import FeatureListNet
from timm.models._efficientnet_blocks import DepthwiseSeparableConv, InvertedResidual
from timm.models.efficientnet import EfficientNetFeatures
from timm.models.resnet import BasicBlock, Bottleneck
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.hub import no_waiting_offline
from cckt.detector.config.config import ModelConfig
from cckt.detector.students.backbones.backbone_weights import load_backbone, uses_timm_weights, weights_file
from cckt.detector.students.backbones.frozen_norm import fold_frozen_norms
from cckt.detector.students.backbones.input_sides import InputSides, cells, feature_maps, input_sides

FROZEN_NORMS = (FrozenBatchNorm2d, FrozenBatchNormAct2d)
"""Classes that timm replaces a BatchNorm2d by when it freezes it."""

CONV_THEN_NORM = (
    FeatureListNet,
    BasicBlock,
    Bottleneck,
    EfficientNetFeatures,
    InvertedResidual,
    DepthwiseSeparableConv,
)
"""timm's modules in which a norm bn... that follows a convolution conv... runs directly after it."""


class Backbone(nn.Module):
    """A timm model that returns its feature maps at `config.strides`.

    Images of any size are padded with zeros, on the right and below, to sides that the model accepts
    (`input_sides.py`), and the maps are cropped. pretrained: False builds only the architecture, because a
    checkpoint follows. Raises UserError for an unknown name, strides that the model does not have, a model
    for images of one size, and missing weights.
    """

    def __init__(self, config: ModelConfig, pretrained: bool = True) -> None:
        super().__init__()
        weights = config.backbone_weights
        self.net, self.sides = _create(config, pretrained and uses_timm_weights(weights))
        self.strides: list[int] = list(self.net.feature_info.reduction())
        self.channels: list[int] = list(self.net.feature_info.channels())
        self.pads = self.sides != InputSides()
        self.computes_masks = config.backbone.startswith("swin")
        assert tuple(self.strides) == config.strides, f"expected {config.strides}, found {self.strides}"
        if pretrained and weights != "none" and not uses_timm_weights(weights):
            load_backbone(self.net, weights_file(weights))
        norm = config.norm
        if norm == "auto":
            norm = "batch" if weights == "none" else "frozen"
        if norm == "frozen":
            self.net = freeze_batch_norm_2d(self.net)
            fold_frozen_norms(self.net, FROZEN_NORMS, CONV_THEN_NORM)
        elif norm == "group":
            _replace_by_group_norm(self.net)
        if weights != "none" and config.freeze_stride:
            _freeze(self.net, config.freeze_stride)
        norms = (part for part in self.net.modules() if isinstance(part, nn.BatchNorm2d))
        self._still = tuple(one for one in norms if one.affine and not one.weight.requires_grad)

    def train(self, mode: bool = True) -> Backbone:
        """Set the mode; batch norms of frozen layers keep their statistics."""
        super().train(mode)
        for norm in self._still:
            norm.eval()
        return self

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return a map (B, channels, h, w) for each stride, with h = ceil(H / stride), w = ceil(W / stride).

        images: (B, 3, H, W), normalised.
        """
        height, width = images.shape[-2:]
        if self.computes_masks and torch.compiler.is_exporting() and isinstance(height * width, torch.SymInt):
            raise RuntimeError("the attention masks of Swin depend on the size of the images")
        if not self.pads:
            return feature_maps(self.net, images)
        right, below = self.sides.padded(width) - width, self.sides.padded(height) - height
        maps = feature_maps(self.net, F.pad(images, (0, right, 0, below)))
        if self.sides.multiple == 1 and not right and not below:
            return maps
        cropped = zip(maps, self.strides, strict=True)
        return [_crop(one, cells(height, stride), cells(width, stride)) for one, stride in cropped]


class Pyramid(nn.Module):
    """Projects feature maps to width d and adds coarser levels.

    A 1x1 convolution per feature map, then 3x3 convolutions of stride 2 up to `levels` maps; each with
    GroupNorm.
    """

    def __init__(self, channels: list[int], levels: int, hidden: int) -> None:
        super().__init__()
        steps: list[nn.Module] = []
        width = channels[-1]
        for level in range(levels):
            if level < len(channels):
                conv = nn.Conv2d(channels[level], hidden, 1)
            else:
                conv = nn.Conv2d(width, hidden, 3, stride=2, padding=1)
                width = hidden
            nn.init.xavier_uniform_(conv.weight)
            assert conv.bias is not None, "a pyramid convolution has no bias"
            nn.init.zeros_(conv.bias)
            steps.append(nn.Sequential(conv, nn.GroupNorm(32, hidden)))
        self.steps = nn.ModuleList(steps)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Return (B, d, h, w) for each level. maps: (B, channels, h, w) of each stride, finest first."""
        out: list[Tensor] = []
        for level, step in enumerate(self.steps):
            if level < len(maps):
                source = maps[level]
            else:  # the first added level reads the last feature map, the others the level before
                source = maps[-1] if level == len(maps) else out[-1]
            out.append(step(source))
        return out


def _crop(feature_map: Tensor, height: int, width: int) -> Tensor:
    """Return the upper left (height, width) cells."""
    if torch.compiler.is_exporting():  # a graph for images of any size cannot prove the bounds of a slice
        rows, columns = (torch.arange(side, device=feature_map.device) for side in (height, width))
        return feature_map.index_select(-2, rows).index_select(-1, columns)
    return feature_map[..., :height, :width]


def _create(config: ModelConfig, download: bool) -> tuple[Any, InputSides]:
    """Return the timm model at the strides of the config, and the sides that it accepts."""
    plain, name = config.backbone.split(".")[0], config.backbone
    if config.backbone_weights.startswith("tag:"):
        name = f"{plain}.{config.backbone_weights.removeprefix('tag:')}"
    if not timm.is_model(plain):
        near = timm.list_models(f"*{plain[:6]}*")[:3]
        hint = f"such as {', '.join(near)}" if near else "such as resnet50"
        raise UserError(
            f"option model.backbone: timm has no model {plain!r}; give one of timm.list_models(), {hint}."
        )
    tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{plain}.*")]
    if "." in name and name.partition(".")[2] not in tags:
        raise UserError(
            f"option model.backbone_weights: timm has no weights {name!r}, expected "
            f"{' or '.join(f'tag:{tag}' for tag in tags) or 'none'}; use --set model.backbone_weights=... "
            "(imagenet: its default ones)."
        )
    options: dict[str, Any] = {"features_only": True, "drop_path_rate": config.drop_path}
    if plain.startswith("swin"):
        options["strict_img_size"] = False  # compute attention masks for the size of each image
    if plain.startswith("swin_"):  # shift the windows of the last stage, which is one window at 224 px
        options["always_partition"] = True
    try:
        probe = _without_unknown(name, options, pretrained=False)
        reductions = list(probe.feature_info.reduction())
    except (RuntimeError, AttributeError, TypeError) as error:
        raise UserError(
            f"option model.backbone: {name!r} has no feature maps ({error}); choose a multi-scale model, "
            "such as resnet50."
        ) from error
    indices = [reductions.index(stride) if stride in reductions else None for stride in config.strides]
    if None in indices or len(set(reductions)) != len(reductions):
        raise UserError(
            f"option model.strides: found {list(config.strides)}, but {name!r} has strides {reductions}; "
            "choose among these."
        )
    sides = input_sides(plain, probe)
    try:
        with no_waiting_offline() if download else nullcontext():
            net = _without_unknown(name, options, pretrained=download, out_indices=tuple(indices))
    except Exception as error:
        if not download:
            raise
        raise UserError(
            f"option model.backbone_weights: the weights of timm's {name!r} cannot be downloaded "
            f"({type(error).__name__}: {error}); give a .safetensors file of them, or use --set "
            "model.backbone_weights=none to train from scratch."
        ) from error
    return net, sides


def _without_unknown(name: str, options: dict[str, Any], **more: Any) -> Any:
    """Create a timm model; leave out drop path if it has none and the config asks for none."""
    try:
        return timm.create_model(name, **options, **more)
    except TypeError as error:
        if "drop_path_rate" not in str(error):
            raise
    if options["drop_path_rate"]:
        raise UserError(
            f"option model.drop_path: found {options['drop_path_rate']}, but {name!r} has no drop path; use "
            "--set model.drop_path=0."
        )
    return timm.create_model(
        name, **{key: value for key, value in options.items() if key != "drop_path_rate"}, **more
    )


def _replace_by_group_norm(module: nn.Module) -> None:
    """Replace BatchNorm2d by GroupNorm of at most 32 groups with the same weights; keep its activation."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            width = child.num_features
            groups = next(g for g in (32, 16, 8, 4, 2, 1) if (width % g == 0 and width >= 2 * g) or g == 1)
            norm = nn.GroupNorm(groups, width)
            with torch.no_grad():
                norm.weight.copy_(child.weight)
                norm.bias.copy_(child.bias)
            activation = getattr(child, "act", None)
            setattr(module, name, nn.Sequential(norm, activation) if activation is not None else norm)
        else:
            _replace_by_group_norm(child)


def _freeze(net: Any, stride: int) -> None:
    """Freeze everything up to the last module whose feature map has `stride` or a finer one."""
    paths = [info["module"] for info in net.feature_info if info["reduction"] <= stride]
    for path in reversed(paths):
        if _freeze_up_to(net, path):
            return


def _freeze_up_to(module: nn.Module, path: str) -> bool:
    """Freeze the children that run before the submodule `path` ("blocks.1"), and that one; return whether it
    exists. timm flattens the names of some networks ("layers_1") and not of others."""
    flat, (head, _, rest) = path.replace(".", "_"), path.partition(".")
    children = dict(module.named_children())
    if flat in children:
        head, rest = flat, ""
    elif head not in children or (rest and not _freeze_up_to(children[head], rest)):
        return False
    for name, child in children.items():
        if name == head:
            if not rest:
                child.requires_grad_(False)
            return True
        child.requires_grad_(False)
    raise AssertionError(f"expected a child {head!r}")
