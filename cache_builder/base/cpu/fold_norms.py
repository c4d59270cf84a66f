"""Batch norms folded into the convolutions before them: the same function in fewer passes over memory.

A frozen batch norm is y = a x + b for each channel and a convolution is linear, so both together are one
convolution with other weights: the same algebra, with different rounding. On the CPU a ReLU that follows is
computed in the same operator (the oneDNN operators that torch's compiler emits), and the weights get their
layout once instead of at every call. A tower without batch norms, such as a ViT, keeps its exact output.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_weights


class FusedConv(nn.Module):
    """A convolution, its batch norm and, with `relu`, its ReLU.

    (B, C, H, W) of any floating dtype -> (B, K, h, w) of `dtype`, the dtype of the weights.
    """

    def __init__(self, conv: nn.Conv2d, norm: Any, relu: bool, dtype: torch.dtype) -> None:
        super().__init__()
        assert norm.running_mean is not None
        assert norm.running_var is not None
        weight, bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        self.weight = nn.Parameter(weight.detach().to(dtype), requires_grad=False)
        self.bias = nn.Parameter(bias.detach().to(dtype), requires_grad=False)
        self.relu = relu
        assert not isinstance(conv.padding, str)
        self._shape = list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups
        self._packed: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Return the output of the fused operators."""
        x = x.to(self.weight.dtype)
        padding, stride, dilation, groups = self._shape
        if torch.compiler.is_exporting() or not _has_fused(self.weight):  # graphs take only plain operators
            with torch.autocast(x.device.type, enabled=False):
                x = F.conv2d(x, self.weight, self.bias, stride, padding, dilation, groups)
            return x.relu_() if self.relu else x
        operators = torch.ops.mkldnn
        if self._packed is None:  # the best layout depends on the input shape
            self._packed = operators._reorder_convolution_weight(
                self.weight, padding, stride, dilation, groups, list(x.shape)
            )
        after = "relu" if self.relu else "none"
        output: Tensor = operators._convolution_pointwise(
            x, self._packed, self.bias, padding, stride, dilation, groups, after, [], ""
        )
        return output

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles pack their weights again: packed ones have no storage to copy."""
        return {**self.__dict__, "_packed": None}


def fold_batch_norms(
    tower: nn.Module,
    dtype: torch.dtype,
    convs: Collection[type[nn.Conv2d]] = (nn.Conv2d,),
    norms: tuple[type[nn.Module], ...] = (nn.BatchNorm2d,),
) -> bool:
    """Fold batch norms of a tower in place; return whether any was folded. dtype: of the folded weights.

    A pair is folded if a trace proves that only the norm reads the convolution, and that both are called
    once. A tower that cannot be traced is not changed. The tower must be in eval mode.

    convs, norms: classes of the pairs; a norm has the statistics of a BatchNorm2d under the same names, and
    may hold its activation as `act`.
    """
    assert not tower.training, "expected a tower in eval mode"
    if not any(isinstance(module, norms) for module in tower.modules()):
        return False
    try:
        graph = _Tracer((*convs, *norms)).trace(tower)
    except Exception:  # data-dependent control flow raises exceptions of any type
        return False
    modules = dict(tower.named_modules())
    calls = [str(node.target) for node in graph.nodes if node.op == "call_module"]

    def module_of(node: fx.Node | None) -> nn.Module | None:
        if node is None or node.op != "call_module" or calls.count(str(node.target)) > 1:
            return None
        found: nn.Module = modules[str(node.target)]
        return found

    def reader(node: fx.Node) -> fx.Node | None:
        only = next(iter(node.users)) if len(node.users) == 1 else None
        while isinstance(module_of(only), nn.Identity) and only is not None and len(only.users) == 1:
            only = next(iter(only.users))
        return only

    folded = False
    for node in list(graph.nodes):
        conv, after = module_of(node), reader(node)
        norm = module_of(after)
        if type(conv) not in convs or not isinstance(norm, norms) or after is None:
            continue
        assert isinstance(conv, nn.Conv2d), "expected classes of convolutions"
        if isinstance(conv.padding, str) or conv.padding_mode != "zeros" or norm.running_mean is None:
            continue
        # timm's norms may contain their activation (BatchNormAct2d); after others it is a module
        inner = [getattr(norm, name, nn.Identity()) for name in ("drop", "act")]
        acts = [part for part in inner if not isinstance(part, nn.Identity)]
        follow = None if acts else reader(after)
        relu = [type(part) for part in acts or [module_of(follow)]] == [nn.ReLU]
        _put(tower, str(node.target), FusedConv(conv, norm, relu, dtype))
        _put(tower, str(after.target), nn.Identity() if relu else nn.Sequential(*acts))
        if relu and follow is not None:
            _put(tower, str(follow.target), nn.Identity())
        folded = True
    return folded


class _Tracer(fx.Tracer):
    def __init__(self, leaves: tuple[type[nn.Module], ...]) -> None:
        super().__init__()
        self._leaves = leaves

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, self._leaves) or super().is_leaf_module(m, module_qualified_name)


def _put(tower: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(tower.get_submodule(parent), last, module.eval())


def _has_fused(weight: Tensor) -> bool:
    """Whether this build of torch has oneDNN's fused convolutions for such weights."""
    known: Callable[..., Any] | None = getattr(torch.ops.mkldnn, "_convolution_pointwise", None)
    usable = weight.device.type == "cpu" and torch._C._has_mkldnn and known is not None
    if weight.dtype == torch.bfloat16:
        return usable and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return usable and weight.dtype == torch.float32
