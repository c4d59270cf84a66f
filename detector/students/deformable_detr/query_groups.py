"""Queries of a training step: the N queries, their copies, and denoising ones; what each may see.

Shape legend: L decoder layers, B images, N queries, A queries of a training step, d hidden size.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cckt.detector.students.contract import StudentOutput
from cckt.detector.students.deformable_detr.outputs import DeformableOutput, EncoderCells, TrainingQueries


@dataclass(frozen=True)
class Queries:
    """Inputs of the decoder: content and position (B, A, d), and first boxes (B, A, 4) or None."""

    content: Tensor
    position: Tensor
    first_boxes: Tensor | None


def split_output(
    output: StudentOutput,
    further: dict[str, Tensor | EncoderCells | None],
    cells: EncoderCells | None,
    queries: int,
    training: TrainingQueries | None,
) -> DeformableOutput:
    """Split the output of all queries into that of the N queries, of their copies, and of the denoising
    queries. further: optional outputs of the N queries, by name."""

    def part(first: int, last: int | None) -> StudentOutput:
        at = slice(first, last)
        return StudentOutput(output.boxes[:, :, at], output.logits[:, :, at], output.region[:, :, at])

    if training is None:
        whole = DeformableOutput(output.boxes, output.logits, output.region, cells=cells)
        return replace(whole, **further)  # type: ignore[arg-type]
    own, copies = part(0, queries), queries if training.copies else 0
    split = DeformableOutput(
        own.boxes,
        own.logits,
        own.region,
        cells=cells,
        noised=part(queries + copies, None) if training.noised is not None else None,
        copies=part(queries, queries + copies) if training.copies else None,
    )
    return replace(split, **further)  # type: ignore[arg-type]


def attention_mask(queries: int, copies: bool, groups: int, slots: int, device: torch.device | str) -> Tensor:
    """Return which queries may attend to which, (A, A) bool over N queries, N copies (if any) and Q denoising
    ones.

    The queries attend to each other and to nothing else, so that nothing that exists in training only can
    help them. A copy attends to itself. A denoising query attends to its own group and to the queries.
    """
    copied = queries if copies else 0
    total = queries + copied + slots
    mask = torch.zeros((total, total), dtype=torch.bool, device=device)
    mask[:queries, :queries] = True
    mask.diagonal()[queries : queries + copied] = True
    if slots:
        group = torch.arange(slots, device=device) // (slots // groups)
        mask[queries + copied :, :queries] = True
        mask[queries + copied :, queries + copied :] = group[:, None] == group[None]
    return mask
