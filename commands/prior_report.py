"""Show how good the priors of a data set are: for `cckt cache priors --report` and `eval --priors-only`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from cckt.commands.console import Answer

if TYPE_CHECKING:
    from cckt.detector.config.config import PriorConfig


def show_prior_report(
    answer: Answer, data: Path, rho: float | None, limit: int | None, run_prior: PriorConfig | None = None
) -> dict[str, Any]:
    """Measure every source of priors of `data`, show the tables and return the figures.

    rho, limit: thresholds; None takes those of `run_prior`, the config of a run. Without a run they are those
    of the recipe shapeworld for its data sets and of coco-48-17-r50 for others.
    """
    from cckt.cache_builder.base.constants import SHAPEWORLD
    from cckt.cache_builder.base.data_cards import is_shapeworld
    from cckt.cache_builder.quality.pope import KINDS
    from cckt.cache_builder.quality.report import report_priors
    from cckt.detector.config.recipes import recipe

    if run_prior is None:
        run_prior = recipe(SHAPEWORLD if is_shapeworld(data) else "coco-48-17-r50").prior
    found = report_priors(
        data,
        rho=run_prior.rho if rho is None else rho,
        limit=run_prior.limit if limit is None else limit,
    )
    answer.table(
        f"Priors of {data}: present if p >= {found.rho:g}, at most {found.limit} per image",
        ["source, concepts", "precision", "recall", "F1", "AP"],
        found.existence_rows(),
    )
    answer.table(
        f"F1 on as many absent as present concepts (POPE): yes if p >= {found.rho:g}",
        ["source, concepts", *KINDS],
        found.pope_rows(),
    )
    answer.lines(*found.notes)
    return found.to_json()
