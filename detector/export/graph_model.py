"""A detector in a form that can be traced: a fixed vocabulary, and operators whose shapes are simple."""

from __future__ import annotations

import copy
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from cckt.detector.inference.fusion import Fusion
from cckt.detector.inference.postprocess import class_scores
from cckt.detector.inference.predict import Predictor
from cckt.detector.students.backbones.same_padding import StaticPadding, is_same
from cckt.detector.students.boxes import to_xyxy
from cckt.detector.students.contract import PresentText
from cckt.detector.students.deformable_detr.attention import choose_kernel

Model = TypeVar("Model", bound=nn.Module)


class HalvingPool(nn.Module):
    """2 x 2 average pooling with ceil_mode, as in timm's ResNets, in a form that can be traced for any size.

    torch.export cannot derive the output size of ceil_mode symbolically. Here the last row and column are
    repeated: with an odd side they are averaged with themselves, with an even side the copies are not read.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, ceil(H / 2), ceil(W / 2))."""
        return functional.avg_pool2d(functional.pad(x, (0, 1, 0, 1), mode="replicate"), 2)


def traceable(model: Model, static_padding: bool = False) -> Model:
    """Return a copy of a model with layers that can be traced for any size; its outputs are the same.

    static_padding: replace layers of SAME too; the outputs are the same for images whose sides are multiples
    of the largest stride.
    """

    def halves(part: nn.Module) -> bool:
        if not isinstance(part, nn.AvgPool2d) or not part.ceil_mode or part.count_include_pad:
            return False
        return (part.kernel_size, part.stride, part.padding) == (2, 2, 0)

    copied = copy.deepcopy(model)
    for module in list(copied.modules()):
        for name, part in list(module.named_children()):
            if static_padding and is_same(part):
                setattr(module, name, StaticPadding(part))
            elif halves(part):
                setattr(module, name, HalvingPool())
    return copied


class GraphModel(nn.Module):
    """A detector whose only input is images: text, present concepts and normalisation are buffers.

    forward(images (B, 3, H, W) float32 RGB in [0, 1]) -> boxes (B, N, 4) float32 x0 y0 x1 y1 as fractions of
    the image's sides, scores (B, N, C) float32 in [0, 1]. gather: deformable attention without GridSample.
    """

    def __init__(
        self,
        detector: Predictor,
        text: np.ndarray,
        present: np.ndarray,
        base: np.ndarray,
        *,
        gather: bool = False,
        static_padding: bool = False,
    ) -> None:
        super().__init__()
        config = detector.model.config
        # A CPU with instructions for bfloat16 has the convolutions of such a run in it; a graph has float32.
        self.model = traceable(detector.model.model, static_padding).float()
        if gather:
            choose_kernel(self.model, "gather")
        self.tau = config.model.tau
        self.inference = config.inference
        place = detector.model.device
        self.register_buffer("text", torch.from_numpy(np.array(text, np.float32)).to(place))
        guidance = PresentText.gather(self.get_buffer("text"), [torch.from_numpy(present)])
        self.register_buffer("base", torch.from_numpy(base).to(place))
        self.register_buffer("words", guidance.embeddings)
        self.register_buffer("counts", guidance.counts)
        self.register_buffer("mean", torch.tensor(config.data.mean, device=place).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(config.data.std, device=place).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return boxes and scores; see the class."""
        text, batch = self.get_buffer("text"), images.shape[0]
        pixels = (images - self.get_buffer("mean")) / self.get_buffer("std")
        guidance = PresentText(
            self.get_buffer("words").expand(batch, -1, -1), self.get_buffer("counts").expand(batch)
        )
        output = self.model.decode(self.model.encode(pixels, None), text, guidance).last()
        inference = self.inference
        scores = class_scores(
            output,
            text,
            self.tau,
            inference.classification,
            softmax=inference.softmax,
            fusion=Fusion(inference, self.get_buffer("base")),
        )
        return to_xyxy(output.boxes[-1]), scores
