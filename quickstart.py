"""`cckt quickstart`: render photos, cache a teacher, train a detector and test it on novel concepts.

The only module that joins all rooms: shapeworld renders, cache_builder caches, detector trains, scores and
draws. Every stage is a public function of its room and resumes: the same call with the same folder continues
where it was stopped.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cckt.cache_builder.base.atomic_files import plain, write_json
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.progress import Progress, Silent
from cckt.cache_builder.columns.clip_priors import cache_clip_priors
from cckt.cache_builder.columns.crops import cache_crops
from cckt.cache_builder.columns.images import cache_images
from cckt.cache_builder.columns.text import cache_text
from cckt.cache_builder.index import open_index
from cckt.cache_builder.quality.report import report_priors
from cckt.cache_builder.runner import Interrupted
from cckt.cache_builder.teacher.clip import load_teacher
from cckt.cache_builder.teacher.guide import TeacherGuide
from cckt.detector.config.config import Config, apply_overrides
from cckt.detector.config.recipes import plain as without_the_method
from cckt.detector.config.recipes import recipe
from cckt.detector.drawing.gallery import draw_finds
from cckt.detector.evaluation.evaluate import evaluate_run
from cckt.detector.evaluation.protocols import SPLIT_FIGURES
from cckt.detector.inference.own_evaluation import prior_tau
from cckt.detector.inference.predict import Predictor
from cckt.detector.runs.run_folder import Facts, newest_checkpoint, read_json, run_config
from cckt.detector.training.train import finished, train
from cckt.shapeworld.dataset import make_dataset

TRAIN_SEED, HELD_OUT_SEED = 1, 2
ASKED, ASKED_DRAWS = (1, 3, 8), 25
"""Words of a request, and requests of each size, that are drawn to measure what `cckt predict` finds."""
MADE_BY = "a folder made by cckt quickstart"


@dataclass(frozen=True)
class QuickstartPlan:
    """Size of a quickstart: photos to train on and to hold out, and the recipe with its overrides."""

    train_photos: int
    held_out_photos: int
    recipe: str = "shapeworld-fast"
    overrides: tuple[str, ...] = ()
    teacher: str = "shapeworld"


QUICK = QuickstartPlan(2800, 400, overrides=("train.epochs=6", "train.checkpoint_every=200"))
"""Ten minutes on two cores."""

FULL = QuickstartPlan(5000, 1000, overrides=("train.epochs=8", "train.checkpoint_every=500"))
"""Half an hour on two cores."""


def quickstart(
    out: Path,
    *,
    plan: QuickstartPlan = QUICK,
    plain: bool = False,
    mllm: str | None = None,
    announce: Callable[[str], None] = lambda line: None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Render, cache, train, evaluate and draw under `out`; return the figures of `out`/metrics.json.

    plain: also train the same detector without the method on the same data. mllm: a multimodal LLM; the same
    weights are also scored with its priors. announce: called with a line per stage. Finished photos, columns
    and runs are kept, and a stopped training is resumed.
    Figures: ap50_base, ap50_novel, ap50_all and ap on the held-out photos with CLIP priors; the same four
    under "plain", and under its "weighed" with priors weighted into the scores; "asked", the figures of drawn
    requests of 1, 3 and 8 words; "priors", precision, recall, F1 and AP of the CLIP priors by split; both
    again under "mllm"; "seconds" by stage; "versions"; "plan".

    Raises UserError if `out` holds a quickstart of another plan or the multimodal LLM is not available, and
    Interrupted when a signal stops it.
    """
    if mllm is not None:
        from cckt.cache_builder.mllm.load import model_source  # imports transformers

        model_source(mllm)  # fails now instead of in ten minutes
    stages = _Stages(out, plan, progress or Silent())
    config = apply_overrides(recipe(plan.recipe), plan.overrides)
    train_data, held_out = out / "train", out / "held-out"

    announce(f"1  Render {plan.train_photos} photos to train on and {plan.held_out_photos} to hold out.")
    with stages.timed("render"):
        _render(train_data, plan.train_photos, TRAIN_SEED, "base", stages.progress)
        _render(held_out, plan.held_out_photos, HELD_OUT_SEED, "all", stages.progress)
    index = open_index(train_data)
    base, novel = (len(index.rows(split)) for split in ("base", "novel"))
    dropped = index.card["dropped"].get("novel", 0)
    announce(
        f"   {base} base concepts; the {dropped} boxes of {novel} novel concepts are left out of training."
    )

    announce("2  Cache the teacher: text embeddings, crop embeddings and priors.")
    with stages.timed("cache"):
        teacher = load_teacher(plan.teacher)
        cache_text(train_data, teacher, progress=stages.progress)
        cache_crops(train_data, teacher, progress=stages.progress)
        cache_text(held_out, teacher, progress=stages.progress)
        for photos in (train_data, held_out) if config.trains_on_priors else (held_out,):
            cache_images(photos, teacher, progress=stages.progress)
            cache_clip_priors(photos, progress=stages.progress)
    priors = _prior_quality(held_out, config, "clip")
    announce("   Its priors on the held-out photos:")
    _announce_quality(announce, priors)
    announce("3  Train a detector on base boxes and cached columns, without the teacher.")
    method = stages.run("train", "evaluate", config, train_data, held_out, out / "run")
    answer: dict[str, Any] = {name: method.get(name) for name in SPLIT_FIGURES}
    answer |= {"plain": None, "mllm": None, "priors": priors}
    announce("   What cckt predict finds for words that are drawn at random, in the photos or not:")
    answer["asked"] = stages.asked(out / "run", held_out)
    if plain:
        announce(
            "   The same detector without the method: no guidance, no contrast, scored by the class head."
        )
        run = out / "run-plain"
        figures = stages.run(
            "train plain", "evaluate plain", without_the_method(config), train_data, held_out, run
        )
        answer["plain"] = {name: figures.get(name) for name in SPLIT_FIGURES}
        # Priors can weight the scores of any detector: this shows how much of the difference that explains.
        weighted = [f"inference.prior_weight={config.inference.prior_weight}"]
        answer["plain"]["weighed"] = stages.evaluate(
            "evaluate plain with priors", run, held_out, config.prior.source, weighted
        )
    if mllm is not None:
        from cckt.cache_builder.columns.mllm_priors import cache_mllm_priors

        announce("   The same detector with the priors of a multimodal LLM:")
        with stages.timed("ask"):
            cache_mllm_priors(held_out, mllm, progress=stages.progress)
        quality = _prior_quality(held_out, config, "mllm")
        _announce_quality(announce, quality)
        figures = stages.evaluate("evaluate mllm", out / "run", held_out, "mllm")
        answer["mllm"] = figures | {"priors": quality}

    announce("4  Draw detections on held-out photos; ★ marks a novel concept.")
    with stages.timed("draw"):
        run = out / "run"
        guide = TeacherGuide(teacher, Facts.load(run).text_recipe, prior_tau(run))
        detector = Predictor.load(run, guide=guide)
        pictures = draw_finds(out / "predictions", detector, open_index(held_out), stages.progress)
    answer |= {
        "pictures": [str(picture.relative_to(out)) for picture in pictures],
        "seconds": stages.seconds,
        "seconds_total": sum(stages.seconds.values()),
        "versions": read_json(out / "run" / "versions.json", "a run made by cckt quickstart"),
        "plan": asdict(plan),
    }
    write_json(out / "metrics.json", answer)
    return answer


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


class _Stages:
    """Stages of a quickstart folder: its plan, and the seconds of each stage over all sessions."""

    def __init__(self, out: Path, plan: QuickstartPlan, progress: Progress) -> None:
        self.progress = progress
        self._file = out / "quickstart.json"
        self._plan = json.loads(json.dumps(asdict(plan)))
        self.seconds: dict[str, float] = {}
        if self._file.exists():
            known = read_json(self._file, MADE_BY)
            if known["plan"] != self._plan:
                raise UserError(
                    f"--out {out}: holds a quickstart of another plan ({known['plan']['train_photos']} "
                    f"photos, expected {plan.train_photos}); name another folder, or delete this one."
                )
            self.seconds = known["seconds"]
        elif out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UserError(f"--out {out}: is neither an empty folder nor {MADE_BY}; name another one.")
        out.mkdir(parents=True, exist_ok=True)
        self._save()

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the seconds of the block to a stage, also if the block fails."""
        begin = time.monotonic()
        try:
            yield
        finally:
            self._add(stage, time.monotonic() - begin)

    def run(
        self, stage: str, evaluation: str, config: Config, train_data: Path, held_out: Path, run: Path
    ) -> dict[str, Any]:
        """Train and evaluate a run, or resume it; return its figures on the held-out photos.

        stage, evaluation: names under which the seconds of training and of evaluation are kept.
        """
        known = finished(run)
        if known and run_config(run) == config:
            return known
        begin = time.monotonic()
        resume = newest_checkpoint(run)[0] is not None
        try:
            figures = train(config, train_data, held_out, run, resume=resume, progress=self.progress)
        except BaseException:
            self._add(stage, time.monotonic() - begin)
            raise
        self._add(stage, figures["seconds"])
        self._add(evaluation, time.monotonic() - begin - figures["seconds"])
        if figures["stopped"]:
            when = f"training step {figures['step']}"
            raise Interrupted.by(figures["stopped"], when, "run the same command to continue")
        return dict(figures["evaluation"])

    def asked(self, run: Path, held_out: Path) -> list[dict[str, Any]]:
        """Return the figures of requests of ASKED words each (`evaluate_run`)."""
        with self.timed("evaluate requests"):
            metrics = evaluate_run(run, held_out, asked=ASKED, draws=ASKED_DRAWS, progress=self.progress)
        return list(plain(metrics.figures["asked"]))

    def evaluate(
        self, stage: str, run: Path, held_out: Path, priors: str, overrides: Sequence[str] = ()
    ) -> dict[str, Any]:
        """Return the figures of a finished run with other priors or another scoring."""
        with self.timed(stage):
            figures = evaluate_run(
                run, held_out, priors=priors, overrides=overrides, progress=self.progress
            ).as_dict()
        return {name: figures[name] for name in SPLIT_FIGURES}

    def _add(self, stage: str, seconds: float) -> None:
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds
        self._save()

    def _save(self) -> None:
        write_json(self._file, {"plan": self._plan, "seconds": self.seconds})
