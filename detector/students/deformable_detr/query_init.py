"""First boxes of the queries, proposed by encoder cells (docs/method/cckt_det.md, section 9 and eq. 25).

A class-agnostic head predicts the objectness and the box of every cell; the boxes of the best cells become
the first boxes of the queries. This follows two-stage Deformable DETR (Zhu et al., ICLR 2021) and the mixed
query selection of DINO (Zhang et al., ICLR 2023): the content of a query stays learned, plus guidance.

Shape legend: B images, S cells (sum of h*w over levels), N queries, G most present concepts of an image,
D width of the teacher, d hidden size.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cckt.detector.students.contract import MASKED, PresentText
from cckt.detector.students.deformable_detr.guidance import deal_runs
from cckt.detector.students.deformable_detr.outputs import EncoderCells
from cckt.detector.students.deformable_detr.positions import inverse_sigmoid
from cckt.detector.students.deformable_detr.sampling import sides_of
from cckt.detector.students.deformable_detr.transformer import BoxHead, Encoded
from cckt.detector.students.heads import PRIOR_LOGIT, UnitLinear
from cckt.detector.students.precision import single

ANCHOR_CELLS = 4.0
"""Width and height of a cell's anchor, in cells of its level: 32 px at stride 8."""
LARGEST_ANCHOR = 0.9
"""Largest width and height of an anchor, as shares of the image; the logits of larger ones train slowly."""


def anchors(encoded: Encoded) -> Tensor:
    """Return the anchor of every cell: a square of ANCHOR_CELLS cells around the cell's centre.

    (B or 1, S, 4) float32 cxcywh, relative to the unpadded image. The centre of an unpadded cell is inside
    the image, so no border is excluded.
    """
    levels = []
    for level, (height, width) in enumerate(encoded.shapes):
        ratio = encoded.ratios[:, None, level]  # (B or 1, 1, 2)
        size = sides_of([(height, width)], ratio)[0]
        y, x = torch.meshgrid(
            torch.arange(height, device=ratio.device), torch.arange(width, device=ratio.device), indexing="ij"
        )
        cell = torch.stack([x, y], -1).view(1, -1, 2).to(ratio.dtype)
        extent = (ANCHOR_CELLS / (size * ratio)).clamp(max=LARGEST_ANCHOR)
        levels.append(torch.cat([(cell + 0.5) / (size * ratio), extent.expand(-1, height * width, -1)], -1))
    return torch.cat(levels, 1)


class ProposalHead(nn.Module):
    """Predicts objectness and box of every encoder cell.

    guided: also predict a region embedding and the logits of the present concepts, which then choose cells.
    """

    def __init__(self, hidden: int, embedding_dim: int, guided: bool) -> None:
        super().__init__()
        self.project = nn.Linear(hidden, hidden)
        self.norm = nn.LayerNorm(hidden)
        self.objectness = nn.Linear(hidden, 1)
        self.box = BoxHead(hidden, from_point=False)
        nn.init.xavier_uniform_(self.project.weight)
        nn.init.zeros_(self.project.bias)
        nn.init.constant_(self.objectness.bias, PRIOR_LOGIT)
        self.region = UnitLinear(hidden, embedding_dim) if guided else None
        self.log_scale = nn.Parameter(torch.tensor(math.log(10.0))) if guided else None
        self.bias = nn.Parameter(torch.tensor(PRIOR_LOGIT)) if guided else None

    def forward(self, encoded: Encoded) -> EncoderCells:
        """Return the proposals of all cells. An untrained head returns `anchors` as boxes."""
        x = self.norm(self.project(encoded.memory))
        with torch.autocast(x.device.type, enabled=False):  # bfloat16 gives many cells equal scores
            objectness = self.objectness(x.to(self.objectness.weight.dtype)).squeeze(-1)
        if encoded.keep is not None:
            objectness = objectness.masked_fill(~encoded.keep.squeeze(-1), MASKED)
        delta = single(self.box(x))
        boxes = (delta + inverse_sigmoid(anchors(encoded))).sigmoid()
        return EncoderCells(objectness, boxes, self.region(x) if self.region is not None else None)

    def with_concepts(self, proposals: EncoderCells, present: PresentText) -> EncoderCells:
        """Add the logits of the present concepts at each cell: scale * cosine + bias, as in the class head.

        Without `guided` the proposals are unchanged. If no image has a present concept, one text of zeros is
        used, so that every parameter is in the graph.
        """
        if proposals.region is None:
            return proposals
        assert self.log_scale is not None, "a guided head needs log_scale"
        assert self.bias is not None, "a guided head needs bias"
        text = present.embeddings
        if text.shape[1] == 0:
            text = text.new_zeros((text.shape[0], 1, text.shape[2]))
        with torch.autocast(text.device.type, enabled=False):
            cosine = proposals.region @ text.to(proposals.region.dtype).transpose(1, 2)
            return replace(proposals, words=cosine * self.log_scale.exp() + self.bias)


class BoxPosition(nn.Module):
    """Position of a query, from its box: sines of centre and size, then an MLP (DAB-DETR, ICLR 2022)."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(2 * hidden, hidden)
        self.fc2 = nn.Linear(hidden, hidden)
        for linear in (self.fc1, self.fc2):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, boxes: Tensor) -> Tensor:
        """Return positions (..., d) of boxes (..., 4), cxcywh in [0, 1]."""
        out: Tensor = self.fc2(F.relu(self.fc1(sine_boxes(boxes, self.fc2.out_features))))
        return out


def sine_boxes(boxes: Tensor, hidden: int) -> Tensor:
    """Return sine encodings (..., 2 * hidden) of boxes (..., 4).

    Of each coordinate c: sin, then cos, of 2 pi c / 10000^(4 i / hidden) for i = 0 .. hidden / 4 - 1.
    """
    step = torch.arange(hidden // 4, device=boxes.device, dtype=boxes.dtype) * (
        -4 * math.log(10000.0) / hidden
    )
    angle = (boxes * (2 * math.pi))[..., None] * step.exp()
    return torch.cat([angle.sin(), angle.cos()], -1).flatten(-2)


def choose_cells(
    proposals: EncoderCells, encoded: Encoded, counts: Tensor, queries: int, unguided: int = 0
) -> Tensor:
    """Return the cell whose box is the first box of each query, (B, N) int64.

    With logits of the present concepts (guided references): the queries of a concept (`guidance.deal`) take
    the cells with the highest objectness times probability of that concept (eq. 25), best first. Two concepts
    may take the same cell. Without present concepts only objectness counts.

    Otherwise: the N cells with the highest objectness, dealt to the present concepts in turn, so that each
    concept has a share of the best cells.

    unguided: the number of queries, the last ones, that no concept gets. They take the cells with the highest
    objectness; without logits, those after the cells of the others.

    An image with fewer cells than queries uses its cells again, from the best one. Of equal cells the one
    with the lower index is first. Padding comes last.

    counts: (B,) present concepts of each image.
    """
    concept, rank = deal_runs(counts, queries, unguided)
    free = concept < 0
    concept = concept.clamp(min=0)
    if proposals.words is None:
        order = _best_first(proposals.objectness)
        groups = counts.clamp(1, queries - unguided)[:, None]
        place = rank * groups + concept
        if unguided:
            taken = (queries - unguided) * (counts > 0)[:, None]
            place = torch.where(free, taken + rank, place)
        return order.gather(1, _wrapped(place, encoded))
    cells = proposals.objectness.shape[1]
    probability = F.logsigmoid(proposals.words).transpose(1, 2)  # (B, G, S), logarithms
    present = torch.arange(probability.shape[1], device=counts.device)[None] < counts[:, None]
    # Padding stays last: its objectness (MASKED) is far below any sum of the other cells.
    weight = present[..., None].to(probability.dtype)
    objectness = F.logsigmoid(proposals.objectness)[:, None]
    score = objectness + probability * weight
    if unguided:
        score = torch.cat([score, objectness], 1)
        concept = torch.where(free, probability.shape[1], concept)
    order = _best_first(score).flatten(1)
    return order.gather(1, concept * cells + _wrapped(rank, encoded))


def _best_first(score: Tensor) -> Tensor:
    """Return the indices of the last axis by descending score; of equal scores the lower index is first."""
    if torch.compiler.is_exporting():  # ONNX has no stable sort, but its TopK keeps the order of equal values
        return score.topk(score.shape[-1], dim=-1).indices
    return score.sort(dim=-1, descending=True, stable=True).indices


def _wrapped(rank: Tensor, encoded: Encoded) -> Tensor:
    """Return ranks modulo the number of unpadded cells of each image."""
    if encoded.keep is None:  # a tensor as divisor: ONNX export does not support a symbolic size here
        return rank % torch.full((), encoded.memory.shape[1], dtype=rank.dtype, device=rank.device)
    return rank % encoded.keep.sum(1).clamp(min=1)
