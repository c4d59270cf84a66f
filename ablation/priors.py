"""Table 6: the effect of rho and L with random fill, measured by one trained run under many priors."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from cckt.ablation.data import Announce, folders
from cckt.ablation.page import save
from cckt.ablation.plan import FULL_ROW, PHOTOS, AblationPlan
from cckt.ablation.runs import FIGURES, detect_variants, finish_run, with_seed
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.progress import Progress
from cckt.detector.config.config import PriorConfig
from cckt.detector.evaluation.compare_runs import compare_detections
from cckt.detector.evaluation.evaluate import evaluate_detections
from cckt.detector.evaluation.inference_loop import Variant
from cckt.detector.runs.run_folder import run_config

PAPER_PRIORS = {(0.7, 6): 0.380, (0.9, 6): 0.376, (0.7, 12): 0.368, (0.9, 12): 0.362}
"""AP50 novel in the paper by (rho, L), with random fill (docs/method/cckt_det.md, section 11)."""


def table6(plan: AblationPlan, announce: Announce, progress: Progress) -> dict[str, Any]:
    """Make Table 6; arguments, answer and errors as for `ablate`."""
    if plan.run is not None:
        if plan.val is None:
            raise UserError(f"--run {plan.run}: no data set to evaluate it on; give --val FOLDER.")
        trains = {
            "--epochs": plan.epochs is not None,
            "--set": bool(plan.overrides),
            "--train": plan.train is not None,
            "--photos": plan.photos != PHOTOS,
            "--recipe": plan.recipe != AblationPlan.recipe,
        }
        for option in (name for name, given in trains.items() if given):
            raise UserError(f"{option} decides how a run is trained; you passed --run, which is. Remove it.")
        run, val = plan.run, plan.val
    else:
        train_data, val = folders(plan, announce, progress)
        run = FULL_ROW.run(plan.out, 0)
        finish_run(FULL_ROW.config(with_seed(plan.config(), 0)), train_data, val, run, progress)
    assert val is not None
    began = time.perf_counter()
    config = run_config(run)
    if not config.guidance.enabled or not config.prior.cached:
        raise UserError(
            f"{run}: is not guided by a column of priors, so rho and L have no effect; give --run with a "
            "guided run."
        )
    own = config.prior
    cells = {
        f"{fill} {rho:g} {limit}": PriorConfig(own.source, rho, limit, fill)
        for fill in ("random", "none")
        for rho in sorted({*plan.rhos, own.rho})
        for limit in sorted({*plan.limits, own.limit})
    }
    cells |= {"no priors": PriorConfig("none"), "true priors": PriorConfig("oracle")}
    inference = replace(config.inference, restrict_to_present=False)
    announce(f"{run.name}: {len(cells)} sets of priors in one pass over the photos")
    variants = [Variant(name, prior, inference) for name, prior in cells.items()]
    scene, found = detect_variants(run, val, variants, progress)
    rows = []
    for name, prior in cells.items():
        figures = evaluate_detections(scene.index, found[name]).as_dict()
        present = scene.present_concepts(replace(prior, fill="none")) or []
        rows.append(
            {
                "key": name,
                "source": prior.source,
                "fill": prior.fill,
                "rho": prior.rho,
                "limit": prior.limit,
                "own": (prior.rho, prior.limit) == (own.rho, own.limit),
                "present_per_photo": sum(map(len, present)) / max(1, len(scene.index)),
                "paper": PAPER_PRIORS.get((prior.rho, prior.limit)) if prior.fill == "random" else None,
                **{figure: figures[figure] for figure in FIGURES},
            }
        )
    low, high = min(plan.limits), max(plan.limits)
    pairs = []
    for rho in sorted({*plan.rhos, own.rho}) if low < high else ():
        fewer, more = (found[f"random {rho:g} {limit}"] for limit in (low, high))
        known = compare_detections(scene.index, fewer, more, resamples=plan.resamples)["ap50_novel"]
        pairs.append({"rho": rho, "from": low, "to": high, **known.as_dict()})
    answer: dict[str, Any] = {"table": "table6", "run": run.name, "rows": rows, "higher_limit": pairs}
    answer["seconds"] = time.perf_counter() - began
    save(plan, answer)
    return answer
