"""Where the queries begin to look: boxes that the encoder's cells propose, rather than learned points.

A class-agnostic head says of every cell of the pyramid whether an object is there, and its box; the likeliest
cells give the queries their first boxes. So two-stage Deformable DETR (Zhu et al., ICLR 2021) and the mixed
query selection of DINO (Zhang et al., ICLR 2023) do: what a query asks for stays learned, with its word.

Shape legend: B photos, S cells (sum of h*w over levels), N queries, G most present concepts, d hidden.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cckt.detector.students.contract import MASKED, PresentText
from cckt.detector.students.deformable_detr.guidance import deal_runs
from cckt.detector.students.deformable_detr.outputs import CellProposals
from cckt.detector.students.deformable_detr.positions import inverse_sigmoid
from cckt.detector.students.deformable_detr.sampling import sides_of
from cckt.detector.students.deformable_detr.transformer import BoxHead, Encoded
from cckt.detector.students.heads import PRIOR_LOGIT, UnitLinear
from cckt.detector.students.precision import single

CELLS_WIDE = 4.0
"""Width and height of a cell's first box, in cells of its level: 32 px at stride 8."""
WIDEST = 0.9
"""Largest first width and height, as shares of the photo: its logit must stay small enough to move."""


def first_boxes(encoded: Encoded) -> Tensor:
    """(B or 1, S, 4) float32 cxcywh in [0, 1] of the photo: a square of CELLS_WIDE cells round every centre.

    A cell that is not padded has its centre inside the photo, so that no border needs to be left out.
    """
    levels = []
    for level, (height, width) in enumerate(encoded.shapes):
        ratio = encoded.ratios[:, None, level]  # (B or 1, 1, 2)
        size = sides_of([(height, width)], ratio)[0]
        y, x = torch.meshgrid(
            torch.arange(height, device=ratio.device), torch.arange(width, device=ratio.device), indexing="ij"
        )
        cell = torch.stack([x, y], -1).view(1, -1, 2).to(ratio.dtype)
        extent = (CELLS_WIDE / (size * ratio)).clamp(max=WIDEST)
        levels.append(torch.cat([(cell + 0.5) / (size * ratio), extent.expand(-1, height * width, -1)], -1))
    return torch.cat(levels, 1)


class ProposalHead(nn.Module):
    """Objectness and box of every cell; and its region embedding, if words are to choose among cells."""

    def __init__(self, hidden: int, embedding_dim: int, words: bool) -> None:
        super().__init__()
        self.project = nn.Linear(hidden, hidden)
        self.norm = nn.LayerNorm(hidden)
        self.objectness = nn.Linear(hidden, 1)
        self.box = BoxHead(hidden, first=False)
        nn.init.xavier_uniform_(self.project.weight)
        nn.init.zeros_(self.project.bias)
        nn.init.constant_(self.objectness.bias, PRIOR_LOGIT)
        self.region = UnitLinear(hidden, embedding_dim) if words else None
        self.log_scale = nn.Parameter(torch.tensor(math.log(10.0))) if words else None
        self.bias = nn.Parameter(torch.tensor(PRIOR_LOGIT)) if words else None

    def forward(self, encoded: Encoded) -> CellProposals:
        """Propose. Boxes begin as `first_boxes`."""
        x = self.norm(self.project(encoded.memory))
        with torch.autocast(x.device.type, enabled=False):  # bfloat16 would leave many cells tied
            objectness = self.objectness(x.to(self.objectness.weight.dtype)).squeeze(-1)
        if encoded.keep is not None:
            objectness = objectness.masked_fill(~encoded.keep.squeeze(-1), MASKED)
        delta = single(self.box(x))
        boxes = (delta + inverse_sigmoid(first_boxes(encoded))).sigmoid()
        return CellProposals(objectness, boxes, self.region(x) if self.region is not None else None)

    def ask(self, proposals: CellProposals, present: PresentText) -> CellProposals:
        """The same with a logit for each present concept: scale * cosine + bias, as of the class head.

        A photo without concepts is asked for a word of zeros, so that every parameter is in the graph.
        """
        if proposals.region is None:
            return proposals
        assert self.log_scale is not None
        assert self.bias is not None
        text = present.embeddings
        if text.shape[1] == 0:
            text = text.new_zeros((text.shape[0], 1, text.shape[2]))
        with torch.autocast(text.device.type, enabled=False):
            cosine = proposals.region @ text.to(proposals.region.dtype).transpose(1, 2)
            return replace(proposals, words=cosine * self.log_scale.exp() + self.bias)


class BoxPosition(nn.Module):
    """A box as the position of a query: sines of centre and size, then a small MLP (DAB-DETR, ICLR 2022)."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(2 * hidden, hidden)
        self.fc2 = nn.Linear(hidden, hidden)
        for linear in (self.fc1, self.fc2):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, boxes: Tensor) -> Tensor:
        """boxes: (..., 4) cxcywh in [0, 1]. Returns (..., d)."""
        out: Tensor = self.fc2(F.relu(self.fc1(sine_boxes(boxes, self.fc2.out_features))))
        return out


def sine_boxes(boxes: Tensor, hidden: int) -> Tensor:
    """(..., 4) -> (..., 2 * hidden): for each coordinate c, sin and cos of 2 pi c / 10000^(4 i / hidden)."""
    step = torch.arange(hidden // 4, device=boxes.device, dtype=boxes.dtype) * (
        -4 * math.log(10000.0) / hidden
    )
    angle = (boxes * (2 * math.pi))[..., None] * step.exp()
    return torch.cat([angle.sin(), angle.cos()], -1).flatten(-2)


def choose_cells(proposals: CellProposals, encoded: Encoded, counts: Tensor, queries: int) -> Tensor:
    """The cell that each query begins at, (B, N) int64.

    With words: every present concept's run of queries (`guidance.deal`) has the cells where objectness times
    the probability of that concept is highest; two concepts may choose the same cell. Without a present
    concept objectness alone decides.

    Without words: the N likeliest cells, dealt out to the present concepts' runs in turn, so that every word
    gets its share of the best ones.

    Where a photo has fewer cells than there are queries, they are dealt again from the first. Equally likely
    cells: the lower number first.

    counts: (B,) present concepts of each photo.
    """
    concept, place = deal_runs(counts, queries)
    concept = concept.clamp(min=0)
    if proposals.words is None:
        order = _likeliest_first(proposals.objectness)
        groups = counts.clamp(1, queries)[:, None]
        return order.gather(1, _within(place * groups + concept, encoded))
    cells = proposals.objectness.shape[1]
    likely = F.logsigmoid(proposals.words).transpose(1, 2)  # (B, G, S)
    given = torch.arange(likely.shape[1], device=counts.device)[None] < counts[:, None]
    # The padding keeps its place at the end: its objectness weighs more than any word can.
    score = F.logsigmoid(proposals.objectness)[:, None] + likely * given[..., None].to(likely.dtype)
    order = _likeliest_first(score).flatten(1)
    return order.gather(1, concept * cells + _within(place, encoded))


def _likeliest_first(score: Tensor) -> Tensor:
    """Numbers of the last axis by falling score, the lower one first of equals."""
    if torch.compiler.is_exporting():  # ONNX has no stable sort, but its TopK keeps equals in order
        return score.topk(score.shape[-1], dim=-1).indices
    return score.sort(dim=-1, descending=True, stable=True).indices


def _within(rank: Tensor, encoded: Encoded) -> Tensor:
    """Ranks taken round among the cells of each photo that are not padding."""
    if encoded.keep is None:  # a tensor: ONNX divides by no size that it learns only from the photo
        return rank % torch.full((), encoded.memory.shape[1], dtype=rank.dtype, device=rank.device)
    return rank % encoded.keep.sum(1).clamp(min=1)
