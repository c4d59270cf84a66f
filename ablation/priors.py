"""Table 6: what rho and L do when chance fills up to L. One trained run is asked again and again."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from cckt.ablation.data import Say, folders
from cckt.ablation.page import save
from cckt.ablation.plan import ROWS, Plan
from cckt.ablation.runs import FIGURES, asked, seeded, trained
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.progress import Progress
from cckt.detector.config.config import PriorConfig
from cckt.detector.evaluation.compare_runs import compare_detections
from cckt.detector.evaluation.detect import Variant
from cckt.detector.evaluation.evaluate import evaluate_detections
from cckt.detector.runs.run_folder import run_config

PAPER_PRIORS = {(0.7, 6): 0.380, (0.9, 6): 0.376, (0.7, 12): 0.368, (0.9, 12): 0.362}
"""AP50 novel of the paper by (rho, L), filled up with random concepts."""


def table6(plan: Plan, say: Say, progress: Progress) -> dict[str, Any]:
    if plan.run is not None and plan.val is None:
        raise UserError(f"--run {plan.run}: say on which data set it is to be asked; give --val FOLDER.")
    if plan.run is not None:
        run, val = plan.run, plan.val
    else:
        seen, val = folders(plan, say, progress)
        run = plan.out / "table4" / f"{ROWS[-1].key}-0"
        trained(seeded(plan.config(), 0), seen, val, run, progress)
    assert val is not None
    began = time.perf_counter()
    config = run_config(run)
    if not config.model.guidance or not config.prior.cached:
        raise UserError(
            f"{run}: is not guided by a column of priors, so rho and L change nothing; give "
            "--run one that is."
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
    say(f"{run.name}: {len(cells)} sets of priors from one pass over the photos")
    variants = [Variant(name, prior, inference) for name, prior in cells.items()]
    scene, found = asked(run, val, variants, progress)
    rows = []
    for name, prior in cells.items():
        figures = evaluate_detections(scene.index, found[name]).as_dict()
        passed = scene.present(replace(prior, fill="none")) or []
        rows.append(
            {
                "key": name,
                "source": prior.source,
                "fill": prior.fill,
                "rho": prior.rho,
                "limit": prior.limit,
                "own": (prior.rho, prior.limit) == (own.rho, own.limit),
                "present_per_photo": sum(map(len, passed)) / max(1, len(scene.index)),
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
