"""`cckt quickstart`: render photos, cache a teacher, train a detector and test it on novel concepts.

The only module that joins all rooms: shapeworld renders, cache_builder caches, detector trains, scores and
draws. Every stage is a public function of its room and resumes: the same call with the same folder continues
where it was stopped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from cckt.cache_builder.base.atomic_files import plain, write_json
from cckt.cache_builder.base.errors import counted
from cckt.cache_builder.base.progress import Progress, Silent
from cckt.cache_builder.columns.clip_priors import cache_clip_priors
from cckt.cache_builder.columns.crops import cache_crops
from cckt.cache_builder.columns.images import cache_images
from cckt.cache_builder.columns.mllm_priors import cache_mllm_priors
from cckt.cache_builder.columns.nouns.cache import cache_nouns
from cckt.cache_builder.columns.proposals import cache_proposals
from cckt.cache_builder.columns.text import cache_text
from cckt.cache_builder.index import open_index
from cckt.cache_builder.mllm.load import model_source
from cckt.cache_builder.proposals import Selection, open_nouns, open_proposals
from cckt.cache_builder.quality.report import report_priors
from cckt.cache_builder.teacher.clip import Teacher, load_teacher
from cckt.cache_builder.teacher.guide import TeacherGuide
from cckt.detector.config.config import Config
from cckt.detector.drawing.gallery import draw_finds
from cckt.detector.evaluation.metrics import percent
from cckt.detector.evaluation.protocols import SPLIT_FIGURES
from cckt.detector.inference.own_evaluation import prior_tau
from cckt.detector.inference.predict import Predictor
from cckt.detector.inference.region_proposals import RunProposer
from cckt.detector.runs.run_folder import Facts, read_json
from cckt.quickstart.plan import QUICK, QuickstartPlan
from cckt.quickstart.stages import Stages
from cckt.shapeworld.dataset import make_dataset

TRAIN_SEED, HELD_OUT_SEED = 1, 2
MLLM = "shapeworld"
"""Multimodal LLM that names regions."""


def quickstart(
    out: Path,
    *,
    plan: QuickstartPlan = QUICK,
    plain: bool = False,
    cckt: bool = False,
    mllm: str = MLLM,
    announce: Callable[[str], None] = lambda line: None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Render, cache, train, name regions, train on, score and draw; return the figures of `out`/metrics.json.

    plain: also train the detector on base boxes alone, for as many epochs. cckt: also train CCKT-Det, and
    score it with priors of CLIP and of the multimodal LLM. mllm: the multimodal LLM. announce: called with a
    line per stage. Finished photos, columns and runs are kept, and a stopped training is resumed.
    Figures: ap50_base, ap50_novel, ap50_all and ap on the held-out photos; the same four under "base", of the
    first training, under "plain", and under "cckt", there with CLIP's priors, and under its "mllm" with the
    multimodal LLM's, both with "priors", precision, recall, F1 and AP of the priors by split; "nouns", counts
    of the named regions; "asked", the figures of drawn requests of 1, 3 and 8 words; "seconds" by stage;
    "versions"; "plan".

    Raises UserError if `out` holds a quickstart of another plan or the multimodal LLM is not available, and
    Interrupted when a signal stops it.
    """
    model_source(mllm)  # fails now instead of in ten minutes
    stages = Stages(out, plan, progress or Silent())
    train_data, held_out, first, run = (out / name for name in ("train", "held-out", "run-base", "run"))
    answer: dict[str, Any] = {"plain": None, "cckt": None}

    announce(
        f"1  Render {counted(plan.train_photos, 'photo')} to train on and {plan.held_out_photos} to hold out."
    )
    with stages.timed("render"):
        _render(train_data, plan.train_photos, TRAIN_SEED, "base", stages.progress)
        _render(held_out, plan.held_out_photos, HELD_OUT_SEED, "all", stages.progress)
    index = open_index(train_data)
    base, novel = (len(index.rows(split)) for split in ("base", "novel"))
    dropped = index.card["dropped"].get("novel", 0)
    announce(
        f"   {counted(base, 'base concept')}; {counted(dropped, 'box', 'boxes')} of "
        f"{counted(novel, 'novel concept')} left out of training."
    )

    announce("2  Cache the teacher: embeddings of names, of annotated objects and of photos.")
    with stages.timed("cache"):
        teacher = load_teacher(plan.teacher)
        for photos in (train_data, held_out):
            cache_text(photos, teacher, progress=stages.progress)
        cache_crops(train_data, teacher, progress=stages.progress)
        cache_images(train_data, teacher, progress=stages.progress)

    announce("3  Train a detector on base boxes alone.")
    figures = stages.run("train base", "evaluate base", plan.base(), train_data, held_out, first)
    answer["base"] = _four(figures)
    announce(f"   {_in_words(figures)}.")

    announce("4  Find regions with it in the photos to train on, and name them.")
    with stages.timed("name regions"):
        answer["nouns"] = _name_regions(train_data, first, teacher, mllm, plan, stages.progress)
    counts = "{regions} regions; an MLLM named {asked}, and the teacher chose among {names} names for all"
    announce(f"   {counts.format(**answer['nouns'])}.")

    announce("5  Train on with the named regions and cached columns, without the teacher.")
    figures = stages.run("train", "evaluate", plan.distilled(), train_data, held_out, run, start=first)
    answer |= _four(figures)
    announce(f"   {_in_words(figures)}.")
    announce("   What cckt predict finds for words that are drawn at random, in the photos or not:")
    answer["asked"] = stages.asked(run, held_out)
    if plain:
        announce("   The same detector on base boxes alone, for as many epochs:")
        bare = out / "run-plain"
        figures = stages.run("train plain", "evaluate plain", plan.plain(), train_data, held_out, bare)
        answer["plain"] = _four(figures)
        announce(f"   {_in_words(figures)}.")
    if cckt:
        answer["cckt"] = _cckt(out, train_data, held_out, teacher, mllm, plan, stages, announce)

    announce("6  Draw detections on held-out photos; ★ marks a novel concept.")
    with stages.timed("draw"):
        guide = TeacherGuide(teacher, Facts.load(run).text_recipe, prior_tau(run))
        detector = Predictor.load(run, guide=guide)
        pictures = draw_finds(out / "predictions", detector, open_index(held_out), stages.progress)
    answer |= {
        "pictures": [str(picture.relative_to(out)) for picture in pictures],
        "seconds": stages.seconds,
        "seconds_total": sum(stages.seconds.values()),
        "versions": read_json(run / "versions.json", "a run made by cckt quickstart"),
        "plan": asdict(plan),
    }
    write_json(out / "metrics.json", answer)
    return answer


def _name_regions(
    data: Path, run: Path, teacher: Teacher, mllm: str, plan: QuickstartPlan, progress: Progress
) -> dict[str, int]:
    """Make the proposals of a run, their crops and nouns; return how many there are of each."""
    cache_proposals(data, RunProposer(run), selection=Selection(plan.top), progress=progress)
    cache_crops(data, teacher, of="proposals", progress=progress)
    answers = cache_nouns(data, mllm, choose="teacher", ask=plan.ask, teacher=teacher, progress=progress)[0]
    index = open_index(data)
    proposals = open_proposals(data, index)
    nouns = open_nouns(data, index, proposals)
    asked = answers.rows - answers.invalid
    return {"regions": len(proposals), "asked": asked, "names": len(np.unique(nouns.ids[nouns.ids >= 0]))}


def _cckt(
    out: Path,
    train_data: Path,
    held_out: Path,
    teacher: Teacher,
    mllm: str,
    plan: QuickstartPlan,
    stages: Stages,
    announce: Callable[[str], None],
) -> dict[str, Any]:
    """Train CCKT-Det; return its figures with the priors of CLIP and of the multimodal LLM."""
    config, run = plan.cckt(), out / "run-cckt"
    announce("   CCKT-Det, for as many epochs, guided by CLIP's priors of the photos:")
    with stages.timed("priors"):
        for photos in (train_data, held_out) if config.trains_on_priors else (held_out,):
            cache_images(photos, teacher, progress=stages.progress)
            cache_clip_priors(photos, progress=stages.progress)
    quality = _prior_quality(held_out, config, "clip")
    _announce_quality(announce, quality)
    figures = _four(stages.run("train cckt", "evaluate cckt", config, train_data, held_out, run))
    announce(f"   {_in_words(figures)}.")
    figures["priors"] = quality
    announce("   CCKT-Det with the priors of a multimodal LLM:")
    with stages.timed("ask"):
        cache_mllm_priors(held_out, mllm, progress=stages.progress)
    quality = _prior_quality(held_out, config, "mllm")
    _announce_quality(announce, quality)
    figures["mllm"] = stages.evaluate("evaluate mllm", run, held_out, "mllm") | {"priors": quality}
    announce(f"   {_in_words(figures['mllm'])}.")
    return figures


def _four(figures: dict[str, Any]) -> dict[str, Any]:
    """Return the AP of an evaluation by split."""
    return {name: figures.get(name) for name in SPLIT_FIGURES}


def _in_words(figures: dict[str, Any]) -> str:
    """Return the AP50 of both splits in a phrase."""
    base, novel = (percent(figures[name]) for name in ("ap50_base", "ap50_novel"))
    return f"AP50 {base} of base concepts, {novel} of novel ones"


def _prior_quality(data: Path, config: Config, source: str) -> dict[str, dict[str, Any]]:
    """Return precision, recall, F1 and AP of a source of priors by split, at the config's rho and limit."""
    found = report_priors(data, [source], rho=config.prior.rho, limit=config.prior.limit)
    return {split: plain(figures.to_json()) for split, figures in found.sources[0].existence.items()}


def _announce_quality(announce: Callable[[str], None], priors: dict[str, dict[str, Any]]) -> None:
    for split in ("base", "novel"):
        known = {name: priors[split][name] for name in ("precision", "recall", "f1")}
        figures = ", ".join(f"{name} {value:.2f}" for name, value in known.items() if value is not None)
        announce(f"   {split}: {figures}")


def _render(folder: Path, photos: int, seed: int, keep: str, progress: Progress) -> None:
    """Render a data set, unless the folder already holds one of that size."""
    card = folder / "index" / "index.json"
    if card.is_file() and open_index(folder).card["counts"]["images"] == photos:
        return
    make_dataset(folder, photos, seed, keep=keep, progress=progress)
