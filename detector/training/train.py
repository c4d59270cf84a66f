"""Training: from a data-set folder with columns to a run folder.

The trainer loads no teacher: what the teacher knew is in the columns. It runs on one device, or on many ranks
when torchrun or srun started it, and can be stopped and resumed at any step as if never stopped.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from cckt.cache_builder.base.atomic_files import write_json
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.progress import Progress, Silent
from cckt.detector.config.config import Config
from cckt.detector.data.dataset import batches
from cckt.detector.data.schedule import Schedule
from cckt.detector.evaluation.detect import Abandoned
from cckt.detector.evaluation.evaluate import evaluate_model
from cckt.detector.ranks.world import joined
from cckt.detector.runs import run_folder as store
from cckt.detector.runs.log import RunLog, check_wandb
from cckt.detector.training.monitor import Watch
from cckt.detector.training.preflight import (
    check_batch,
    check_machine,
    check_metric,
    check_validation,
    gather,
)
from cckt.detector.training.process import Signals, deterministic
from cckt.detector.training.run import Folders, Run

STOP_AFTER = "stop_after"
"""What "stopped" says of a run that ended at `stop_after`."""


def train(
    config: Config,
    train_data: Path,
    val_data: Path | None,
    out: Path,
    *,
    resume: bool = False,
    max_steps: int | None = None,
    stop_after: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train a detector on `train_data` (a base-only index with columns text and crops).

    val_data: a data set with columns text and priors to evaluate on, at the end and every
    `train.evaluate_every` epochs; None evaluates nothing. out: the run folder (see runs/run_folder.py).
    resume: go on from the newest whole checkpoint of `out`. max_steps: end after so many optimiser steps of
    the run, rather than after `train.epochs`; the schedules do not change. stop_after: leave after so many
    steps of this call with a checkpoint to resume from, as on a signal.

    Returns {"step", "epochs", "seconds", "images_per_s", "data_wait_share", "skipped", "photos_unreadable",
    "stopped", "evaluation"}: data_wait_share is the part of the logged steps' time that no photo was ready
    in; stopped the signal (SIGTERM, SIGINT, SIGUSR1) that ended the run after a checkpoint, "stop_after", or
    ""; evaluation the figures on val_data, {} without. Every rank gets them. Raises UserError for whatever
    `preflight.py` looks for, for an `out` that holds another run, after `train.nonfinite_limit` steps
    in a row without a finite loss and gradient, and when another rank dies.
    """
    for option, steps in (("--max-steps", max_steps), ("--stop-after", stop_after)):
        if steps is not None and steps < 1:
            raise UserError(f"{option} {steps}: expected at least 1.")
    with (
        joined(config.train.device, "option train.device") as world,
        deterministic(world.device, config.train.deterministic),
        Signals() as signals,
    ):
        progress = progress if world.first and progress else Silent()
        check_batch(config, world.size)
        check_metric(config)
        notes = check_machine(config, world.device)
        check_wandb(config.train.wandb_project)
        ingredients = gather(config, train_data)
        if val_data is not None:
            check_validation(config, val_data, ingredients.facts)
        for note in notes:
            progress.note(note)
        if ingredients.facts.pseudo:
            progress.note(f"{train_data}: {ingredients.facts.pseudo}")
        run = Run(config, ingredients, out, world)
        run.open(resume, Folders.of(train_data, val_data, max_steps), progress)
        last = config.train.epochs * run.steps_per_epoch
        last = last if max_steps is None else min(last, max_steps)
        log = RunLog(out, run.step, config, run.evaluated) if world.first else None
        try:
            return _Loop(run, val_data, log, progress, signals).go(last, stop_after)
        finally:
            if log is not None:
                log.close()


def finished(run: Path) -> dict[str, Any]:
    """The evaluation of a run that was trained to its end; {} of one that was not, or that had no data to be
    evaluated on.
    """
    if not (run / "metrics.json").is_file():
        return {}
    known = store.read_json(run / "metrics.json", "a run folder")
    return {} if known["stopped"] else dict(known["evaluation"])


class _Loop:
    """The steps of a run from where it stands, with its log, checkpoints and evaluations."""

    def __init__(
        self, run: Run, val_data: Path | None, log: RunLog | None, progress: Progress, signals: Signals
    ) -> None:
        self.run, self.val_data, self.log, self.progress, self.signals = run, val_data, log, progress, signals
        self.settings, self.world = run.config.train, run.world

    def go(self, last: int, stop_after: int | None) -> dict[str, Any]:
        """Up to step `last`, unless something stops the run; what `train` returns."""
        run, settings = self.run, self.settings
        began, first, evaluation = time.perf_counter(), run.step, {}
        if self.world.first and run.step < last:  # a finished run goes on: what it was judged by is old
            for name in ("model.safetensors", "metrics.json"):
                (run.out / name).unlink(missing_ok=True)
        stopped = self._steps(last, first + stop_after if stop_after is not None else last + 1)
        self.progress.finish()
        run.save(self.watch.state())
        seconds = time.perf_counter() - began
        if not stopped:
            if self.world.first:
                store.save_weights(run.out / "model.safetensors", run.judged())
            try:
                evaluation = self._evaluate()
            except Abandoned:
                stopped = self._signal
        metrics = {
            "step": run.step,
            "epochs": run.step / run.steps_per_epoch,
            "seconds": seconds,
            "images_per_s": (run.step - first) * settings.batch / max(seconds, 1e-9),
            "data_wait_share": self.watch.data_wait_share,
            "skipped": self.watch.skipped,
            "photos_unreadable": len(self.watch.unreadable),
            "stopped": stopped,
            "evaluation": evaluation,
        }
        if self.world.first:
            write_json(run.out / "metrics.json", metrics)
        self.world.wait()
        return metrics

    def _steps(self, last: int, leave_at: int) -> str:
        """Train until step `last`; why it was left before, "" if it was not."""
        run, settings, photos = self.run, self.settings, self.run.ingredients.photos
        schedule = Schedule(
            len(photos),
            settings.seed,
            settings.batch,
            settings.accumulate,
            self.world.rank,
            self.world.size,
            run.step,
            last,
        )
        self.watch = Watch(run, schedule, self.log, self.progress)
        self.progress.start("training", last - run.step, "steps")
        on_gpu = self.world.device.type == "cuda"
        reading = batches(photos, schedule, pinned=on_gpu, ahead=on_gpu)
        try:
            self._evaluate_if_due(last)  # of a step at which the session before was stopped
            while run.step < last:
                with run.stepper.times.part("data"):
                    parts = [next(reading).to(self.world.device) for _ in range(settings.accumulate)]
                result = run.stepper(parts, run.step, stop=bool(self.signals.name))
                run.step += 1
                self.watch.look(run.step - 1, parts, result)
                if result.stop:
                    return self._signal
                if run.step == leave_at:
                    return STOP_AFTER
                if run.step % settings.checkpoint_every == 0:
                    run.save(self.watch.state())
                self._evaluate_if_due(last)
        except Abandoned:
            return self._signal
        return ""

    @property
    def _signal(self) -> str:
        return self.signals.name or "another rank's signal"

    def _evaluate_if_due(self, last: int) -> None:
        """At the ends of the epochs that `train.evaluate_every` names, but for the last step's, once."""
        run, every = self.run, self.settings.evaluate_every
        epoch, within = divmod(run.step, run.steps_per_epoch)
        if not every or within or epoch % every or run.step >= last or run.evaluated == run.step:
            return
        run.save(self.watch.state())  # an evaluation may outlast a scheduler's patience
        self._evaluate()

    def _evaluate(self) -> dict[str, Any]:
        """Figures on the validation data, the photos shared by the ranks; keeps the best weights, and that it
        was done. Raises `Abandoned` where a signal came in between: it is then owed.
        """
        run = self.run
        if self.val_data is None:
            return {}
        own = {name: value.clone() for name, value in run.model.state_dict().items()}
        run.model.load_state_dict(run.judged())
        self.world.align(run.model.state_dict().values())  # ranks count their own running statistics
        try:
            metrics = evaluate_model(
                run.model,
                run.config,
                self.val_data,
                run.ingredients.facts,
                world=self.world,
                stop=lambda: bool(self.signals.name),
                progress=self.progress,
            )
        finally:
            run.model.load_state_dict(own)
            run.model.train()
        figures = metrics.as_dict()
        plain = {key: value for key, value in figures.items() if isinstance(value, int | float)}
        if self.log is not None:
            self.log.write("evaluation", run.step, plain)
        value = plain.get(self.settings.best_metric, float("-inf"))
        if value > run.best:
            run.best = value
            if self.world.first:
                store.save_weights(run.out / "best.safetensors", run.judged())
        run.evaluated = run.step
        run.save(self.watch.state())
        self.watch.restart_clock()
        return figures
