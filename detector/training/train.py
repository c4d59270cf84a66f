"""Training: from a data set with columns to a run folder.

The trainer loads no teacher; it reads the teacher's embeddings from columns. It runs on one device, or on
several ranks if torchrun or srun starts it. A run that is stopped and resumed at any step equals an
uninterrupted one.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from cckt.cache_builder.base.atomic_files import write_json
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.progress import Progress, Silent
from cckt.cache_builder.index import open_index, shared_note
from cckt.detector.config.config import Config
from cckt.detector.data.dataset import batches
from cckt.detector.data.schedule import Schedule
from cckt.detector.evaluation.evaluate import evaluate_model
from cckt.detector.evaluation.inference_loop import Abandoned
from cckt.detector.ranks.world import joined
from cckt.detector.runs.file_digests import forget, record, recorded
from cckt.detector.runs.folder_guard import training_lock
from cckt.detector.runs.json_fields import as_written
from cckt.detector.runs.log import LOG_FILE, RunLog, check_wandb
from cckt.detector.runs.run_folder import Facts, read_json
from cckt.detector.runs.weights import save_weights
from cckt.detector.training.forecast import warnings
from cckt.detector.training.monitor import Monitor
from cckt.detector.training.preflight import (
    check_batch,
    check_machine,
    check_metric,
    check_validation,
    gather,
)
from cckt.detector.training.process import Signals, deterministic
from cckt.detector.training.run import Folders, Run
from cckt.detector.training.start_weights import provenance_of, require_clean_start

STOP_AFTER = "stop_after"
"""Value of "stopped" for a run that ended at `stop_after`."""


def train(
    config: Config,
    train_data: Path,
    val_data: Path | None,
    out: Path,
    *,
    resume: bool = False,
    max_steps: int | None = None,
    stop_after: int | None = None,
    start: Path | None = None,
    saw_novel: str = "unknown",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train a detector and return the figures of the run.

    train_data: base-only index with columns text and crops. val_data: data set with columns text and priors,
    evaluated at the end and every `train.evaluate_every` epochs; None: no evaluation. out: run folder
    (runs/run_folder.py). resume: continue from the newest intact checkpoint of `out`. max_steps: end the run
    after this number of optimiser steps instead of `train.epochs`; the schedules do not change. stop_after:
    stop after this number of steps of this call, with a checkpoint to resume from, as on a signal. start: a
    run folder or a .safetensors file whose fitting weights a new run starts from (`start_from`). saw_novel:
    "yes", "no" or "unknown": whether the file of `start` was trained on boxes of novel concepts.

    Returns, on every rank, {"step", "epochs", "seconds", "images_per_s", "data_wait_share", "skipped",
    "photos_unreadable", "stopped", "evaluation"}. data_wait_share: share of the logged steps' time spent
    waiting for data. stopped: the signal (SIGTERM, SIGINT, SIGUSR1) that ended the run after a checkpoint,
    "stop_after", or "". evaluation: figures on val_data, {} without.

    Raises UserError if a check of `preflight.py` fails, if `out` holds another run, other files or a training
    in progress, after `train.nonfinite_limit` consecutive steps with a non-finite loss or gradient, and if
    another rank dies.
    """
    for option, steps in (("--max-steps", max_steps), ("--stop-after", stop_after)):
        if steps is not None and steps < 1:
            raise UserError(f"{option} {steps}: expected at least 1.")
    with (
        joined(config.train.device, "option train.device") as world,
        training_lock(out, world),
        deterministic(world.device, config.train.deterministic),
        Signals() as signals,
    ):
        progress = progress if world.first and progress else Silent()
        check_batch(config, world.size)
        check_metric(config)
        notes = check_machine(config, world.device)
        check_wandb(config.train.wandb_project)
        ingredients = gather(config, train_data)
        makers: list[dict[str, Any]] = []
        if resume and (out / "facts.json").is_file():
            makers = Facts.load(out).started_from
        elif start is not None and not resume:
            found = provenance_of(start, saw_novel)
            require_clean_start(found, ingredients.photos.index, config.recipe)
            makers = [one.to_json() for one in found]
        facts = replace(ingredients.facts, started_from=makers)
        ingredients = replace(ingredients, facts=facts)
        if val_data is not None:
            scene = check_validation(config, val_data, ingredients.facts)
            shared = shared_note(ingredients.photos.index, scene.index)
            notes += [f"warning: {shared}"] if shared else []
        for note in notes:
            progress.note(note)
        if ingredients.facts.pseudo:
            progress.note(f"{train_data}: {ingredients.facts.pseudo}")
        for warning in warnings(config, ingredients, open_index(train_data), max_steps):
            progress.note(f"warning: {warning}")
        run = Run(config, ingredients, out, world, None if resume else start)
        if run.started is not None:
            progress.note(run.started.line())
        run.open(resume, Folders.of(train_data, val_data, max_steps), progress)
        last = config.train.epochs * run.steps_per_epoch
        last = last if max_steps is None else min(last, max_steps)
        if world.first:
            forget(out, LOG_FILE)
        log = RunLog(out, run.step, config, run.evaluated) if world.first else None
        try:
            return _Loop(run, val_data, log, progress, signals).run_to(last, stop_after)
        finally:
            if log is not None:
                log.close()
                record(out, LOG_FILE)


def finished(run: Path) -> dict[str, Any]:
    """Return the final evaluation of a run; {} if it is not finished or had no validation data."""
    if not (run / "metrics.json").is_file():
        return {}
    metrics = read_json(run / "metrics.json", "a run folder")
    with as_written(run / "metrics.json"):
        return {} if metrics["stopped"] else dict(metrics["evaluation"])


class _Loop:
    """The remaining steps of a run, with log, checkpoints and evaluations."""

    def __init__(
        self, run: Run, val_data: Path | None, log: RunLog | None, progress: Progress, signals: Signals
    ) -> None:
        self.run, self.val_data, self.log, self.progress, self.signals = run, val_data, log, progress, signals
        self.settings, self.world = run.config.train, run.world

    def run_to(self, last: int, stop_after: int | None) -> dict[str, Any]:
        """Train until step `last` or until the run is stopped; return the figures of `train`."""
        run, settings = self.run, self.settings
        began, first, evaluation = time.perf_counter(), run.step, {}
        if self.world.first and run.step < last:  # a finished run is continued: its results are outdated
            outdated = ("model.safetensors", "metrics.json")
            forget(run.out, *outdated)
            for name in outdated:
                (run.out / name).unlink(missing_ok=True)
        stopped = self._steps(last, first + stop_after if stop_after is not None else last + 1)
        self.progress.finish()
        run.save(self.monitor.state())
        seconds = self.world.share(time.perf_counter() - began)  # `--minutes` plans the same run on all ranks
        if not stopped:
            self._require_progress()
            if self.world.first:
                with recorded(run.out, "model.safetensors"):
                    save_weights(run.out / "model.safetensors", run.evaluated_weights())
            try:
                evaluation = self._evaluate()
            except Abandoned:
                stopped = self._signal
        metrics = {
            "step": run.step,
            "epochs": run.step / run.steps_per_epoch,
            "seconds": seconds,
            "images_per_s": (run.step - first) * settings.batch / max(seconds, 1e-9),
            "data_wait_share": self.monitor.data_wait_share,
            "skipped": self.monitor.skipped,
            "photos_unreadable": len(self.monitor.unreadable),
            "stopped": stopped,
            "evaluation": evaluation,
        }
        if self.world.first:
            with recorded(run.out, "metrics.json"):
                write_json(run.out / "metrics.json", metrics)
        self.world.wait()
        return metrics

    def _require_progress(self) -> None:
        """Raise UserError if every step of the run was skipped, so that its weights are the initial ones."""
        run, skipped = self.run, self.monitor.skipped + self.monitor.overflows_in_a_row
        if run.step and skipped >= run.step:
            raise UserError(
                f"{run.out}: found a non-finite loss or gradient in all of the {run.step} steps, expected at "
                "least one step that changes the weights; start a new run with a lower train.lr or "
                "train.precision=fp32."
            )

    def _steps(self, last: int, stop_at: int) -> str:
        """Train until step `last`; return why it stopped earlier, "" if it did not."""
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
            photos.image_rows,
        )
        self.monitor = Monitor(run, schedule, self.log, self.progress)
        self.progress.start("training", last - run.step, "steps")
        on_gpu = self.world.device.type == "cuda"
        reading = batches(photos, schedule, pinned=on_gpu, ahead=on_gpu)
        try:
            self._evaluate_if_due(last)  # if the previous process was stopped before it
            while run.step < last:
                with run.stepper.times.part("data"):
                    parts = [next(reading).to(self.world.device) for _ in range(settings.accumulate)]
                result = run.stepper(parts, run.step, stop=bool(self.signals.name))
                run.step += 1
                self.monitor.record(run.step - 1, parts, result)
                if result.stop:
                    return self._signal
                if run.step == stop_at:
                    return STOP_AFTER
                if run.step % settings.checkpoint_every == 0:
                    run.save(self.monitor.state())
                self._evaluate_if_due(last)
        except Abandoned:
            return self._signal
        return ""

    @property
    def _signal(self) -> str:
        return self.signals.name or "another rank's signal"

    def _evaluate_if_due(self, last: int) -> None:
        """Evaluate at the end of every `train.evaluate_every`-th epoch, once, but not at the last step."""
        run, every = self.run, self.settings.evaluate_every
        epoch, within = divmod(run.step, run.steps_per_epoch)
        if not every or within or epoch % every or run.step >= last or run.evaluated == run.step:
            return
        run.save(self.monitor.state())  # an evaluation may take longer than a scheduler waits
        self._evaluate()

    def _evaluate(self) -> dict[str, Any]:
        """Evaluate on the validation data, shared by the ranks; save the best weights; return the figures.

        Raises `Abandoned` if a signal arrives meanwhile; the evaluation is then repeated after a resume.
        """
        run = self.run
        if self.val_data is None:
            return {}
        own = {name: value.clone() for name, value in run.model.state_dict().items()}
        run.model.load_state_dict(run.evaluated_weights())
        self.world.align(run.model.state_dict().values())  # running statistics differ between ranks
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
                with recorded(run.out, "best.safetensors"):
                    save_weights(run.out / "best.safetensors", run.evaluated_weights())
        run.evaluated = run.step
        run.save(self.monitor.state())
        self.monitor.restart_clock()
        return figures
