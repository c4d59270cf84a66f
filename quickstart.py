"""`cckt quickstart`: from nothing to a detector that finds what it was never shown.

The one place where the rooms meet: shapeworld renders photos, cache_builder caches what the teacher knows,
detector learns from the columns and is measured. Each stage is a call that anyone can make, and each goes on
where it was stopped: the same command with the same folder does what is left.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cckt.cache_builder.base.atomic_files import plain
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.progress import Progress, Silent
from cckt.cache_builder.columns.clip_priors import cache_clip_priors
from cckt.cache_builder.columns.crops import cache_crops
from cckt.cache_builder.columns.images import cache_images
from cckt.cache_builder.columns.text import cache_text
from cckt.cache_builder.index import Index, open_index
from cckt.cache_builder.presence import oracle_presence
from cckt.cache_builder.quality.existence import existence_report
from cckt.cache_builder.runner import Interrupted
from cckt.cache_builder.store import open_column
from cckt.cache_builder.teacher.clip import load_teacher
from cckt.cache_builder.teacher.guide import TeacherGuide
from cckt.detector.config.config import Config, apply_overrides
from cckt.detector.config.recipes import plain as without_the_method
from cckt.detector.config.recipes import recipe
from cckt.detector.drawing.gallery import draw_finds
from cckt.detector.evaluation.evaluate import evaluate_run
from cckt.detector.evaluation.protocols import SPLIT_FIGURES
from cckt.detector.inference.predict import Detector
from cckt.detector.runs.run_folder import Facts, newest_checkpoint, read_json, run_config, write_json
from cckt.detector.training.train import finished, train
from cckt.shapeworld.dataset import make_dataset

TRAIN_SEED, HELD_OUT_SEED = 1, 2


@dataclass(frozen=True)
class Plan:
    """How much of everything: photos to train on and to hold out, and the recipe with its overrides."""

    train_photos: int
    held_out_photos: int
    recipe: str = "shapeworld-fast"
    overrides: tuple[str, ...] = ()
    teacher: str = "shapeworld"


QUICK = Plan(2800, 400, overrides=("train.epochs=6", "train.checkpoint_every=200"))
"""Ten minutes of two cores."""

FULL = Plan(5000, 1000, overrides=("train.epochs=8", "train.checkpoint_every=500"))
"""Half an hour of them."""


def quickstart(
    out: Path,
    *,
    plan: Plan = QUICK,
    plain: bool = False,
    mllm: str | None = None,
    say: Callable[[str], None] = lambda line: None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Render, cache, train, measure and draw under `out`; the figures, as `out`/metrics.json holds them.

    plain: also train the same detector without the method on the same data. mllm: a multimodal LLM, with
    whose priors the same checkpoint is scored too. say: is told what happens, a line at a time. Photos,
    columns and runs that are finished are kept, a stopped training goes on.
    Figures: ap50_base, ap50_novel, ap50_all, ap on the held-out photos with CLIP priors; the same four under
    "plain", and under its "weighed" with the priors weighed into its scores too; "priors", how good the CLIP
    priors are by split; both again under "mllm"; "seconds" by stage; "versions"; "plan".

    Raises UserError where `out` holds a quickstart of another plan or the multimodal LLM cannot be had, and
    Interrupted when a signal ends it.
    """
    if mllm is not None:
        from cckt.cache_builder.mllm.load import model_source  # brings transformers

        model_source(mllm)  # says now, not in ten minutes, that shapeworld's own is missing
    stages = _Stages(out, plan, progress or Silent())
    config = apply_overrides(recipe(plan.recipe), plan.overrides)
    seen, held_out = out / "train", out / "held-out"

    say(f"1  Rendering {plan.train_photos} photos to train on and {plan.held_out_photos} to hold out.")
    with stages.timed("render"):
        _photos(seen, plan.train_photos, TRAIN_SEED, "base", stages.progress)
        _photos(held_out, plan.held_out_photos, HELD_OUT_SEED, "all", stages.progress)
    index = open_index(seen)
    dropped, base, novel = index.card["dropped"].get("novel", 0), *map(len, _splits(index).values())
    say(f"   {base} concepts are base. Of {novel} novel ones training never hears: {dropped} boxes left out.")

    say("2  Asking the teacher, once: what the words mean, what is in each box, what a photo may hold.")
    with stages.timed("cache"):
        teacher = load_teacher(plan.teacher)
        cache_text(seen, teacher, progress=stages.progress)
        cache_crops(seen, teacher, progress=stages.progress)
        cache_text(held_out, teacher, progress=stages.progress)
        for photos in (seen, held_out) if config.heeds_priors else (held_out,):
            cache_images(photos, teacher, progress=stages.progress)
            cache_clip_priors(photos, progress=stages.progress)
    priors = prior_quality(held_out, config)
    say("   How well it guesses what a held-out photo holds:")
    _tell_quality(say, priors)
    say("3  Training a detector on base boxes and cached columns; the teacher is needed no more.")
    method = stages.run("train", "evaluate", config, seen, held_out, out / "run")
    answer: dict[str, Any] = {name: method.get(name) for name in SPLIT_FIGURES}
    answer |= {"plain": None, "mllm": None, "priors": priors}
    if plain:
        say("   And once more without the method: no guidance, no distillation, the class head's score.")
        other = without_the_method(config)
        # Photos' priors may weigh on any detector's scores: how much of the distance that is must be seen.
        weighed = [f"inference.prior_weight={config.inference.prior_weight}"]
        run = out / "run-plain"
        figures = stages.run("train plain", "evaluate plain", other, seen, held_out, run)
        answer["plain"] = {name: figures.get(name) for name in SPLIT_FIGURES}
        answer["plain"]["weighed"] = stages.asked(
            "evaluate plain with priors", run, held_out, config.prior.source, weighed
        )
    if mllm is not None:
        from cckt.cache_builder.columns.mllm_priors import cache_mllm_priors

        say("   And the same detector once more, told by a multimodal LLM what each photo holds:")
        with stages.timed("ask"):
            cache_mllm_priors(held_out, mllm, progress=stages.progress)
        quality = prior_quality(held_out, config, "mllm")
        _tell_quality(say, quality)
        told = stages.asked("evaluate mllm", out / "run", held_out, "mllm")
        answer["mllm"] = told | {"priors": quality}

    say("4  Looking at held-out photos; ★ marks what nobody ever annotated for it.")
    with stages.timed("draw"):
        run = out / "run"
        asked = Detector.load(run, guide=TeacherGuide(teacher, Facts.load(run).text_recipe))
        pictures = draw_finds(out / "predictions", asked, open_index(held_out), stages.progress)
    answer |= {
        "pictures": [str(picture.relative_to(out)) for picture in pictures],
        "seconds": stages.seconds,
        "seconds_total": sum(stages.seconds.values()),
        "versions": read_json(out / "run" / "versions.json", "a run that quickstart made"),
        "plan": asdict(plan),
    }
    write_json(out / "metrics.json", answer)
    return answer


def prior_quality(data: Path, config: Config, source: str = "clip") -> dict[str, dict[str, float | None]]:
    """Precision, recall, F1 and AP of a column of priors by split, at the config's rho and limit."""
    index, prior = open_index(data), config.prior
    column = open_column(data, f"priors/{source}", index_digest=index.digest)
    truth, valid = oracle_presence(index), column.valid_all()
    report = existence_report(
        column.all(), truth, _splits(index), rho=prior.rho, limit=prior.limit, valid=valid
    )
    return {split: plain(figures.to_json()) for split, figures in report.items()}


def _tell_quality(say: Callable[[str], None], priors: dict[str, dict[str, float | None]]) -> None:
    for split in ("base", "novel"):
        known = {name: priors[split][name] for name in ("precision", "recall", "f1")}
        told = ", ".join(f"{name} {value:.2f}" for name, value in known.items() if value is not None)
        say(f"   {split}: {told}")


def _photos(folder: Path, photos: int, seed: int, keep: str, progress: Progress) -> None:
    """Render a data set, unless just this one is there."""
    card = folder / "index" / "index.json"
    if card.is_file() and open_index(folder).card["counts"]["images"] == photos:
        return
    make_dataset(folder, photos, seed, keep=keep, progress=progress)


def _splits(index: Index) -> dict[str, np.ndarray[Any, np.dtype[np.int64]]]:
    return {split: index.rows(split) for split in ("base", "novel")}


class _Stages:
    """What a quickstart folder remembers: its plan, and the seconds of each stage over all its runs."""

    def __init__(self, out: Path, plan: Plan, progress: Progress) -> None:
        self.progress = progress
        self._file = out / "quickstart.json"
        self._plan = json.loads(json.dumps(asdict(plan)))
        self.seconds: dict[str, float] = {}
        if self._file.exists():
            known = read_json(self._file, "a folder made by cckt quickstart")
            if known["plan"] != self._plan:
                raise UserError(
                    f"--out {out}: holds a quickstart of another plan (of {known['plan']['train_photos']} "
                    f"photos, this one is of {plan.train_photos}); name another folder, or delete this one."
                )
            self.seconds = known["seconds"]
        elif out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UserError(
                f"--out {out}: is not an empty folder nor one that quickstart made; name another."
            )
        out.mkdir(parents=True, exist_ok=True)
        self._save()

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the seconds of the block to a stage, whatever becomes of it."""
        begin = time.monotonic()
        try:
            yield
        finally:
            self._add(stage, time.monotonic() - begin)

    def run(
        self, stage: str, measured: str, config: Config, seen: Path, held_out: Path, run: Path
    ) -> dict[str, Any]:
        """Train and evaluate a run, or what is left of it; its figures on the held-out photos."""
        known = finished(run)
        if known and run_config(run) == config:
            return known
        begin = time.monotonic()
        resume = newest_checkpoint(run)[0] is not None
        try:
            figures = train(config, seen, held_out, run, resume=resume, progress=self.progress)
        except BaseException:
            self._add(stage, time.monotonic() - begin)
            raise
        self._add(stage, figures["seconds"])
        self._add(measured, time.monotonic() - begin - figures["seconds"])
        if figures["stopped"]:
            when = f"training step {figures['step']}"
            raise Interrupted.by(figures["stopped"], when, "the same command goes on from there")
        return dict(figures["evaluation"])

    def asked(
        self, measured: str, run: Path, held_out: Path, priors: str, overrides: Sequence[str] = ()
    ) -> dict[str, Any]:
        """Figures of a finished run, told other priors or scored in another way."""
        with self.timed(measured):
            told = evaluate_run(
                run, held_out, priors=priors, overrides=overrides, progress=self.progress
            ).as_dict()
        return {name: told[name] for name in SPLIT_FIGURES}

    def _add(self, stage: str, seconds: float) -> None:
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds
        self._save()

    def _save(self) -> None:
        write_json(self._file, {"plan": self._plan, "seconds": self.seconds})
