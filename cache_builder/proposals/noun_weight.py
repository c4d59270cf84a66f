"""The weight of a noun, from the cosine of crop and noun, and its two constants fitted to a teacher.

docs/method/hd_ovd.md, eqs. 11 and 12.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cckt.cache_builder.base.constants import W_MAX
from cckt.cache_builder.base.errors import UserError, counted
from cckt.cache_builder.base.logistic import fit_logistic, rounded


@dataclass(frozen=True)
class NounWeight:
    """w = w_max * sigma((s - s0) / s_delta) (eq. 12), with what it was fitted on."""

    s0: float
    """Cosine at which a right and a wrong name are equally likely."""
    s_delta: float
    w_max: float = W_MAX
    objects: int = 0
    """Annotated objects of the fit."""
    right: float = 0.0
    """Mean cosine of their crops and their own names."""
    wrong: float = 0.0
    """Mean cosine of their crops and the best wrong name."""

    def __call__(self, cosines: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return float32 weights of cosines of any shape."""
        return noun_weight(cosines, self.s0, self.s_delta, self.w_max)

    def to_json(self) -> dict[str, Any]:
        """Return the constants as a recipe holds them."""
        return asdict(self)

    @staticmethod
    def from_json(fields: Mapping[str, Any]) -> NounWeight:
        """Return the constants in a recipe."""
        return NounWeight(**{key: fields[key] for key in NounWeight.__dataclass_fields__})

    def summary(self) -> str:
        """Return the constants as text."""
        return (
            f"weight of a noun: s0 {self.s0:.4g}, s_delta {self.s_delta:.4g}, w_max {self.w_max:g}; fitted "
            f"on {counted(self.objects, 'annotated object')} (mean cosine {self.right:.3f} to the own name, "
            f"{self.wrong:.3f} to the best wrong one)"
        )


def noun_weight(
    cosines: NDArray[np.floating], s0: float, s_delta: float, w_max: float = W_MAX
) -> NDArray[np.float32]:
    """Return w_max * sigma((s - s0) / s_delta) (docs/method/hd_ovd.md, eq. 12), float32, of any shape."""
    scaled = (np.asarray(cosines, np.float64) - s0) / s_delta
    weights: NDArray[np.float32] = (w_max * 0.5 * (1 + np.tanh(0.5 * scaled))).astype(np.float32)
    return weights


def fit_noun_weight(
    right: NDArray[np.floating], wrong: NDArray[np.floating], w_max: float = W_MAX
) -> NounWeight:
    """Fit s0 and s_delta by logistic regression, so that sigma((s - s0) / s_delta) = P(the name is right).

    right, wrong: (n,) cosines of crops with their own names, and with the best wrong names. Raises UserError
    where crops are not nearer to their own names, and for a `w_max` that is not positive.
    """
    check_w_max(w_max)
    assert len(right) == len(wrong) > 0, f"expected pairs of cosines, found {len(right)} and {len(wrong)}"
    s = np.concatenate([right, wrong]).astype(np.float64)
    truth = np.arange(len(s)) < len(right)
    centre, spread = s.mean(), s.std() or 1.0
    slope, bias = fit_logistic((s - centre) / spread, truth)
    if slope <= 0:
        raise UserError(
            f"The noun weight cannot be fitted: the crops of {len(right)} annotated objects have mean cosine "
            f"{np.mean(right):.3f} to their own names and {np.mean(wrong):.3f} to the best wrong ones, "
            "expected them nearer to their own; use another --teacher, or check the annotations."
        )
    return NounWeight(
        s0=rounded(centre - bias / slope * spread),
        s_delta=rounded(spread / slope),
        w_max=w_max,
        objects=len(right),
        right=rounded(float(np.mean(right))),
        wrong=rounded(float(np.mean(wrong))),
    )


def check_w_max(w_max: float) -> None:
    """Raise UserError unless `w_max` is a weight."""
    if not (np.isfinite(w_max) and w_max > 0):
        raise UserError(f"--w-max is {w_max}; give a weight above 0, such as the default {W_MAX}.")
