"""Language queries (METHOD.md section 4, eq. 1) and which concepts count as present (section 3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cckt.detector.students.contract import PresentText


def deal(counts: Tensor, queries: int) -> Tensor:
    """Deal the queries out to the present concepts: equal consecutive runs, the first N mod G one longer.

    counts: (B,) int64, present concepts of each photo. Returns (B, queries) int64: the number of each query's
    concept, or -1 where a photo has none. More concepts than queries: the first (likeliest) N have one each.
    """
    return deal_runs(counts, queries)[0]


def deal_runs(counts: Tensor, queries: int) -> tuple[Tensor, Tensor]:
    """`deal`, and each query's place in its concept's run (from 0), both (B, queries) int64.

    Without present concepts all queries are one run.
    """
    groups = counts.clamp(0, queries)[:, None]
    share = groups.clamp(min=1)
    # Not `queries // share`: a number over a tensor has no ONNX.
    short = torch.full_like(share, queries) // share
    extra = queries - short * share
    query = torch.arange(queries, device=counts.device)[None]
    in_long = extra * (short + 1)  # queries that stand in the longer runs
    concept = torch.where(query < in_long, query // (short + 1), extra + (query - in_long) // short)
    first = concept * short + torch.minimum(concept, extra)
    return torch.where(groups > 0, concept, -1), query - first


class LanguageGuidance(nn.Module):
    """Adds the projected text of the present concepts to the content of the queries."""

    def __init__(self, embedding_dim: int, hidden: int) -> None:
        super().__init__()
        self.project = nn.Linear(embedding_dim, hidden)
        # A unit vector times weights of variance 1 has entries of variance 1, as the learned content has.
        # With a usual initialisation the words are a hundredth of its energy, and are never listened to.
        nn.init.normal_(self.project.weight)
        nn.init.zeros_(self.project.bias)

    def forward(self, content: Tensor, present: PresentText) -> Tensor:
        """content: (B, N, d). Returns the same; without present concepts queries stay as learned."""
        text = present.embeddings
        if text.shape[1] == 0:  # one padding row, so that the projection is in the graph of every rank
            text = text.new_zeros((text.shape[0], 1, text.shape[2]))
        concept = deal(present.counts, content.shape[1])[..., None]
        added = self.project(text).gather(1, concept.clamp(min=0).expand(-1, -1, content.shape[-1]))
        out: Tensor = content + added * (concept >= 0).to(added.dtype)
        return out
