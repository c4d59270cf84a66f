"""Small versions of timm's window and pyramid backbones, registered under separate names."""

from __future__ import annotations

from typing import Any

from timm.models import pvt_v2, register_model, swin_transformer, swin_transformer_v2, swin_transformer_v2_cr

SWIN = {"embed_dim": 16, "depths": (1, 1, 2, 2), "num_heads": (1, 2, 2, 4)}
PVT = {"depths": (1, 1, 1, 1), "embed_dims": (8, 16, 16, 32), "num_heads": (1, 1, 2, 4)}


@register_model
def swin_test(pretrained: bool = False, **options: Any) -> Any:
    return swin_transformer.swin_tiny_patch4_window7_224(pretrained, **SWIN, **options)


@register_model
def swinv2_test(pretrained: bool = False, **options: Any) -> Any:
    return swin_transformer_v2.swinv2_tiny_window8_256(pretrained, **SWIN, **options)


@register_model
def swinv2_cr_test(pretrained: bool = False, **options: Any) -> Any:
    return swin_transformer_v2_cr.swinv2_cr_tiny_224(pretrained, **SWIN, **options)


@register_model
def pvt_v2_test(pretrained: bool = False, **options: Any) -> Any:
    return pvt_v2.pvt_v2_b0(pretrained, **PVT, **options)


WINDOWS = ("swin_test", "swinv2_test", "swinv2_cr_test", "test_maxvit")
"""Backbones with windows or patches of a fixed size."""
BACKBONES = ("test_resnet", *WINDOWS, "test_convnext", "pvt_v2_test")
"""One small backbone of each family."""
