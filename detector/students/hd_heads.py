"""Heads of HD-OVD that students share: text space, relation, whole image, objectness
(docs/method/hd_ovd.md, sections 5 to 7).

They are in a student only if its options ask for them (`model.text_projector` and so on), and they work on
the raw region embedding e: the output of the linear layer before it gets unit length.

Shape legend: B images, D width of the teacher, d hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cckt.detector.students.heads import PRIOR_LOGIT
from cckt.detector.students.precision import single

SAMPLES = 14
"""Sampling points per side of eq. 38: 7 cells with 2 points each."""


class TextProjector(nn.Module):
    """Residual projection of region embeddings to text space (eq. 22), and the learned background (eq. 23).

    All output layers of a student share one.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [nn.Linear(width, 2 * width), nn.Linear(2 * width, 2 * width), nn.Linear(2 * width, width)]
        )
        self.background = nn.Parameter(torch.randn(width))
        for layer in self.layers:
            assert isinstance(layer, nn.Linear), f"expected Linear, found {type(layer).__name__}"
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    @property
    def last_weight(self) -> Tensor:
        """The last weight matrix, (D, 2 D): A of eq. 29."""
        weight = self.layers[-1].weight
        assert isinstance(weight, Tensor), "the last layer has no weight"
        return weight

    def forward(self, region: Tensor) -> Tensor:
        """Map raw region embeddings (..., D) to (..., D) float32 unit embeddings in text space."""
        x = region
        for number, layer in enumerate(self.layers):
            x = layer(x if number == 0 else F.gelu(x))
        return F.normalize(single(region) + single(x), dim=-1, eps=1e-6)


class RelationHead(nn.Module):
    """The text-space relation head: a linear map that a small network makes of A (eqs. 29 and 30).

    At the start the map is 0, so the output equals the input. All output layers of a student share one.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(2 * width, 2 * width)
        self.fc2 = nn.Linear(2 * width, width)
        nn.init.xavier_uniform_(self.fc1.weight)
        nn.init.zeros_(self.fc1.bias)
        nn.init.zeros_(self.fc2.weight)
        nn.init.zeros_(self.fc2.bias)

    def forward(self, region: Tensor, last_weight: Tensor) -> Tensor:
        """Return (..., D) float32, not normalised. region: raw embeddings; last_weight: (D, 2 D), A.

        No gradient flows into A.
        """
        matrix = self.fc2(F.relu(self.fc1(last_weight.detach())))  # (D, D)
        return single(region) + single(F.linear(region, matrix))


class ImageHead(nn.Module):
    """Embedding of the whole image, from the pyramid (eqs. 37 and 38).

    channels: of every level of the pyramid. width: D.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.linear = nn.Linear(channels, width)
        nn.init.xavier_uniform_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, levels: Sequence[Tensor], padding: Tensor | None) -> Tensor:
        """Return (B, D) float32 unit embeddings.

        levels: maps (B, channels, h, w), finest first; their sum has the size of the last one. padding: (B,
        H, W) bool at the size of the images, True in the padding (right and below), or None.
        """
        coarse = levels[-1]
        size = (coarse.shape[2], coarse.shape[3])
        fused = single(coarse)
        for level in levels[:-1]:
            fused = fused + F.interpolate(single(level), size=size, mode="bilinear", align_corners=False)
        batch = fused.shape[0]
        if padding is None:
            shares = fused.new_ones((batch, 2))
        else:
            kept = ~padding
            shares = torch.stack([kept[:, :, 0].float().mean(1), kept[:, 0].float().mean(1)], 1)
        rows, columns = (sampling_weights(shares[:, axis], size[axis]) for axis in (0, 1))
        pooled = torch.einsum("bchw,bh,bw->bc", fused, rows, columns)
        return F.normalize(single(self.linear(self.norm(pooled))), dim=-1, eps=1e-6)


def sampling_weights(shares: Tensor, cells: int) -> Tensor:
    """Return how much each row (or column) of a map counts in the mean of RoIAlign over the unpadded area.

    The mean over all sampling points is separable: it is a weighted sum of rows and of columns. That is
    deterministic on GPUs too, and equals torchvision's roi_align with aligned=True (a test compares them).

    shares: (B,) unpadded share of the axis. Returns (B, cells), each summing to 1.
    """
    point = (torch.arange(SAMPLES, device=shares.device, dtype=shares.dtype) + 0.5) / SAMPLES
    place = (shares[:, None] * cells * point - 0.5).clamp(0, cells - 1)  # (B, SAMPLES), in cells
    cell = torch.arange(cells, device=shares.device, dtype=shares.dtype)
    return (1 - (place[..., None] - cell).abs()).clamp(min=0).mean(1)


class ObjectnessHead(nn.Module):
    """Objectness logit of a region: two linear layers, probability 0.01 at the start (section 7.1)."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(hidden, hidden // 2)
        self.fc2 = nn.Linear(hidden // 2, 1)
        for linear in (self.fc1, self.fc2):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)
        nn.init.constant_(self.fc2.bias, PRIOR_LOGIT)

    def forward(self, x: Tensor) -> Tensor:
        """Return (...) float32 logits of states (..., d)."""
        return single(self.fc2(F.relu(self.fc1(x)))).squeeze(-1)
