"""Language queries: the text of the present concepts is added to the queries (docs/method/cckt_det.md, eqs. 8
and 9).

Shape legend: B images, N queries, G most present concepts of an image, D width of the teacher, d hidden size.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from cckt.detector.students.contract import PresentText


def deal(counts: Tensor, queries: int, unguided: int = 0) -> Tensor:
    """Deal the queries to the present concepts in consecutive runs of equal length (eq. 9).

    counts: (B,) int64, present concepts of each image. unguided: the number of queries, the last ones, that
    no concept gets. Returns (B, queries) int64: the concept of each query, 0..count-1, or -1 if it has none.
    If the runs cannot be equal, the first N mod G have one query more; with more concepts than queries, the
    first N concepts have one query each.
    """
    return deal_runs(counts, queries, unguided)[0]


def deal_runs(counts: Tensor, queries: int, unguided: int = 0) -> tuple[Tensor, Tensor]:
    """Return `deal` and the position of each query in its run (from 0), both (B, queries) int64.

    The unguided queries are the last run; in an image without present concepts all queries are one run.
    """
    if unguided:
        concept, place = deal_runs(counts, queries - unguided)
        last = torch.arange(unguided, device=counts.device)[None]
        first = torch.where(counts > 0, 0, queries - unguided)[:, None]
        free = torch.full_like(last, -1).expand(counts.shape[0], -1)
        return torch.cat([concept, free], 1), torch.cat([place, first + last], 1)
    groups = counts.clamp(0, queries)[:, None]
    share = groups.clamp(min=1)
    # Not `queries // share`: ONNX export does not support a Python number divided by a tensor.
    short = torch.full_like(share, queries) // share
    extra = queries - short * share
    query = torch.arange(queries, device=counts.device)[None]
    in_long = extra * (short + 1)  # queries in the longer runs
    concept = torch.where(query < in_long, query // (short + 1), extra + (query - in_long) // short)
    first = concept * short + torch.minimum(concept, extra)
    return torch.where(groups > 0, concept, -1), query - first


class LanguageGuidance(nn.Module):
    """Adds the projected text of the present concepts to the content of the queries (eq. 8)."""

    def __init__(
        self,
        embedding_dim: int,
        hidden: int,
        initial: Literal["normal", "xavier"] = "normal",
        unguided: int = 0,
    ) -> None:
        """initial: initial weights of the projection (`guidance.initial`). unguided: queries without a word
        (`guidance.unguided`)."""
        super().__init__()
        self.unguided = unguided
        self.project = nn.Linear(embedding_dim, hidden)
        # Weights of variance 1 map a unit vector to entries of variance 1, like the learned content. With a
        # usual initialisation the text has a hundredth of the content's energy, and training ignores it.
        if initial == "normal":
            nn.init.normal_(self.project.weight)
        else:
            nn.init.xavier_uniform_(self.project.weight)
        nn.init.zeros_(self.project.bias)

    def forward(self, content: Tensor, present: PresentText) -> Tensor:
        """Return the guided content, (B, N, d); queries of images without present concepts are unchanged."""
        text = present.embeddings
        if text.shape[1] == 0:  # one row of padding, so that the projection is in the graph on every rank
            text = text.new_zeros((text.shape[0], 1, text.shape[2]))
        concept = deal(present.counts, content.shape[1], self.unguided)[..., None]
        added = self.project(text).gather(1, concept.clamp(min=0).expand(-1, -1, content.shape[-1]))
        out: Tensor = content + added * (concept >= 0).to(added.dtype)
        return out
