"""Score fusion: two text scores of a region, with one exponent for base and one for novel concepts
(docs/method/hd_ovd.md, eqs. 50 to 54).

Shape legend: B images, N regions, C concepts, D width of the teacher.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cckt.detector.config.config import InferenceConfig
from cckt.detector.students.contract import StudentOutput


@dataclass(frozen=True)
class Fusion:
    """Options of the fusion, for a vocabulary."""

    options: InferenceConfig
    base: Tensor
    """(C,) bool: the run was trained on the concept; the others are novel."""

    def scores(self, output: StudentOutput, text: Tensor) -> Tensor:
        """Return (B, N, C) float32 scores of the last output layer.

        The first score is the softmax of text-space embeddings over text (C, D) unit and the background; a
        student without them gives the probability of its class head instead, and the result is then not
        divided by its sum (eq. 54), which needs the background. The second score reads the embeddings of the
        relation head, or the region embeddings of a student without one.
        """
        options = self.options
        with torch.autocast(text.device.type, enabled=False):
            second = output.region if output.relation is None else output.relation
            unit = F.normalize(second[-1].float(), dim=-1, eps=1e-6)
            scores = options.fusion_scale_2 * unit @ text.float().t()
            other = scores.log_softmax(-1) if options.fusion_second == "softmax" else F.logsigmoid(scores)
            exponent = torch.where(self.base, options.fusion_alpha, options.fusion_beta)
            first, background = self._first(output, text)
            fused = (1 - exponent) * first + exponent * other
            if background is None:
                return fused.exp()
            return torch.cat([fused, background], -1).softmax(-1)[..., :-1]

    def _first(self, output: StudentOutput, text: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the logarithm of the first score (eq. 50) of the concepts and of the background."""
        if output.text_region is None or output.background is None:
            return F.logsigmoid(output.logits[-1].float()), None
        background = F.normalize(output.background.detach().float(), dim=0, eps=1e-6)
        bank = torch.cat([text.float(), background[None]])
        known = (self.options.fusion_scale_1 * output.text_region[-1].float() @ bank.t()).log_softmax(-1)
        return known[..., :-1], known[..., -1:]
