"""Backbones: feature maps of any multi-scale timm model, and the pyramid over them."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file
from timm.layers import FrozenBatchNormAct2d, freeze_batch_norm_2d
from timm.models import FeatureListNet
from timm.models.resnet import BasicBlock, Bottleneck
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from cckt.cache_builder.base.errors import UserError
from cckt.detector.config.config import ModelConfig
from cckt.detector.students.frozen_norm import fold_frozen_norms

FROZEN_NORMS = (FrozenBatchNorm2d, FrozenBatchNormAct2d)
"""Classes that timm replaces a BatchNorm2d by when it freezes it."""

CONV_THEN_NORM = (FeatureListNet, BasicBlock, Bottleneck)
"""timm's modules that run a norm bnK directly after the convolution convK."""


class Backbone(nn.Module):
    """A timm model cut down to its feature maps at `config.strides`.

    pretrained: False makes the architecture only (a checkpoint follows); the norm is as the config says
    either way. Raises UserError for a name timm does not know, strides it does not have, weights not found.
    """

    def __init__(self, config: ModelConfig, pretrained: bool = True) -> None:
        super().__init__()
        self.net = _create(config, pretrained and _timm_tag(config))
        reductions = self.net.feature_info.reduction()
        self.channels: list[int] = list(self.net.feature_info.channels())
        assert tuple(reductions) == config.strides, f"{reductions} are not {config.strides}"
        self._channels_last = getattr(self.net, "output_fmt", None) == "NHWC"
        weights = config.backbone_weights
        if pretrained and weights not in ("none", "imagenet") and not weights.startswith("tag:"):
            self._load(_weights_path(weights))
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

    def forward(self, images: Tensor) -> list[Tensor]:
        """images: (B, 3, H, W). Returns one (B, channels, h, w) for each stride."""
        maps: list[Tensor] = self.net(images)
        return [one.permute(0, 3, 1, 2) for one in maps] if self._channels_last else maps

    def _load(self, path: Path) -> None:
        state = load_file(path)
        own = self.net.state_dict()
        missing = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
        other = [name for name in own if name in state and state[name].shape != own[name].shape]
        if missing or other:
            raise UserError(
                f"option model.backbone_weights: {path} lacks {len(missing)} tensors of the backbone and has "
                f"{len(other)} of another shape (first: {(missing + other)[0]!r}); expected "
                "the weights of this very model.backbone."
            )
        self.net.load_state_dict({name: state[name] for name in own if name in state}, strict=False)


class Pyramid(nn.Module):
    """Feature maps to `levels` maps of width d: 1x1 convolutions, then stride-2 ones, each with GroupNorm."""

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
            assert conv.bias is not None
            nn.init.zeros_(conv.bias)
            steps.append(nn.Sequential(conv, nn.GroupNorm(32, hidden)))
        self.steps = nn.ModuleList(steps)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """maps: finest first. Returns (B, d, h, w) for each level."""
        out: list[Tensor] = []
        for level, step in enumerate(self.steps):
            if level < len(maps):
                source = maps[level]
            else:  # the first extra level looks at the backbone, the others at the level before
                source = maps[-1] if level == len(maps) else out[-1]
            out.append(step(source))
        return out


def _timm_tag(config: ModelConfig) -> bool:
    return config.backbone_weights == "imagenet" or config.backbone_weights.startswith("tag:")


def _create(config: ModelConfig, download: bool) -> Any:
    name = config.backbone
    if config.backbone_weights.startswith("tag:"):
        name = f"{name.split('.')[0]}.{config.backbone_weights.removeprefix('tag:')}"
    if not timm.is_model(name.split(".")[0]):
        near = timm.list_models(f"*{name.split('.')[0][:6]}*")[:3]
        hint = f"such as {', '.join(near)}" if near else "such as resnet50"
        raise UserError(
            f"option model.backbone: timm knows no {name!r}; give one of timm.list_models(), {hint}."
        )
    options: dict[str, Any] = {"features_only": True}
    if name.startswith("swin"):  # windows of a fixed size over photos of any size
        options |= {"strict_img_size": False}
    try:
        probe = timm.create_model(name, pretrained=False, **options)
        reductions = list(probe.feature_info.reduction())
    except (RuntimeError, AttributeError, TypeError) as error:
        raise UserError(
            f"option model.backbone: {name!r} gives no feature maps ({error}); choose a multi-scale one, "
            "such as resnet50."
        ) from error
    wanted = [reductions.index(stride) if stride in reductions else None for stride in config.strides]
    if None in wanted or len(set(reductions)) != len(reductions):
        raise UserError(
            f"option model.strides: found {list(config.strides)}, but {name!r} has strides {reductions}; "
            "choose among these."
        )
    try:
        return timm.create_model(name, pretrained=download, out_indices=tuple(wanted), **options)
    except Exception as error:
        if not download:
            raise
        raise UserError(
            f"option model.backbone_weights: the weights of timm's {name!r} cannot be had here "
            f"({type(error).__name__}: {error}); give a .safetensors file, or none to start from scratch."
        ) from error


def _weights_path(weights: str) -> Path:
    if weights == "shapeworld":
        spec = importlib.util.find_spec("cckt.shapeworld")
        assert spec is not None
        assert spec.submodule_search_locations
        path = Path(next(iter(spec.submodule_search_locations))) / "backbone" / "resnet10t.safetensors"
    else:
        path = Path(weights)
    if path.suffix != ".safetensors" or not path.is_file():
        raise UserError(
            f"option model.backbone_weights: found {weights!r}, expected imagenet, none, tag:NAME, "
            f"shapeworld or an existing .safetensors file ({path} is none)."
        )
    return path


def _replace_by_group_norm(module: nn.Module) -> None:
    """BatchNorm2d (and timm's with an activation inside) -> GroupNorm of at most 32 groups, weights kept."""
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
    """No gradients for the children up to the last one whose features stand at `stride` or finer."""
    stops = {info["module"].replace(".", "_") for info in net.feature_info if info["reduction"] <= stride}
    names = [name for name, _ in net.named_children()]
    last = max((index for index, name in enumerate(names) if name in stops), default=-1)
    for child in list(net.children())[: last + 1]:
        child.requires_grad_(False)
