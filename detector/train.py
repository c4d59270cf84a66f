"""Training: from a data-set folder with columns to a run folder.

The trainer loads no teacher: what the teacher knew is in the columns. It runs on one device, or on many ranks
when torchrun or srun started it, and can be stopped and resumed at any step as if never stopped.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cache_builder.errors import UserError
from cache_builder.progress import Progress, Silent
from detector import checkpoint as store
from detector.conduct import Signals, deterministic, versions
from detector.config import Config, save_config
from detector.data import Batch, Schedule, batches
from detector.distributed import World, joined
from detector.logs import RunLog
from detector.model import CCKTDetector
from detector.optim import MovingAverage, build_optimizer
from detector.preflight import Ingredients, check_batch, check_validation, gather
from detector.step import Stepper, StepResult, save_batch


def train(
    config: Config,
    train_data: Path,
    val_data: Path | None,
    out: Path,
    *,
    resume: bool = False,
    max_steps: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train a detector on `train_data` (a base-only index with columns text and crops).

    val_data: a data set with columns text and priors to evaluate on, at the end and every
    `train.evaluate_every` epochs; None evaluates nothing. out: the run folder (see detector.checkpoint).
    resume: go on from the newest whole checkpoint of `out`. max_steps: end after so many optimiser steps of
    the run, rather than after `train.epochs`; the schedules do not change.

    Returns {"step", "epochs", "seconds", "images_per_s", "skipped", "stopped", "evaluation"}: stopped is the
    signal (SIGTERM, SIGINT, SIGUSR1) that ended the run after a checkpoint, or ""; evaluation the figures on
    val_data, {} without. Raises UserError for whatever `detector.preflight` looks for, for an `out` that
    holds another run, and after `train.nonfinite_limit` steps in a row without a finite loss and gradient.
    """
    with joined(config.train.device) as world, deterministic(world.device), Signals() as signals:
        check_batch(config, world.size)
        ingredients = gather(config, train_data)
        if val_data is not None:
            check_validation(config, val_data, ingredients.facts)
        run = _Run(
            config, ingredients, val_data, out, world, progress if world.first and progress else Silent()
        )
        run.open(resume)
        return run.train(max_steps, signals)


class _Run:
    """A model in training, with everything that is saved and restored."""

    def __init__(
        self,
        config: Config,
        ingredients: Ingredients,
        val_data: Path | None,
        out: Path,
        world: World,
        progress: Progress,
    ) -> None:
        self.config, self.ingredients, self.val_data = config, ingredients, val_data
        self.out, self.world, self.progress = out, world, progress
        settings = config.train
        torch.manual_seed(settings.seed)
        facts = ingredients.facts
        self.model = CCKTDetector(config.model, facts.embedding_dim, facts.n_classes).to(world.device)
        # Convolutions are up to half faster so, on CPUs and GPUs alike.
        self.model.backbone.to(memory_format=torch.channels_last)
        self.model.train()
        self.optimizer = build_optimizer(self.model, settings, world.device)
        self.average = MovingAverage(self.model, settings.ema_decay) if settings.ema_decay else None
        photos = len(ingredients.photos)
        self.steps_per_epoch = Schedule(photos, settings.seed, settings.batch).steps_per_epoch
        text = ingredients.text.to(world.device)
        wrapped = world.wrap(self.model)
        self.stepper = Stepper(
            wrapped, text, config, world, self.optimizer, self.average, self.steps_per_epoch
        )
        self.step = self.skipped = self.skipped_in_a_row = 0
        self.best = float("-inf")
        self.window: list[dict[str, float]] = []
        self.saved_step = -1
        self.unreadable: set[int] = set()

    # The run folder

    def open(self, resume: bool) -> None:
        """Begin the folder, or take up what it holds."""
        found, torn = store.newest_checkpoint(self.out)
        if resume:
            self._check_same()
            for line in torn:
                self.progress.note(line)
            if found is None:
                raise UserError(f"{self.out}: found no whole checkpoint to resume; train without --resume.")
            self._restore(found)
        elif found is not None or torn or (self.out / "model.safetensors").exists():
            raise UserError(f"{self.out}: already holds a run; add --resume to go on, or give another --out.")
        self.world.wait()
        if self.world.first:
            self.out.mkdir(parents=True, exist_ok=True)
            if resume:
                store.drop_newer(self.out, self.step)
            save_config(self.config, self.out / "config.toml")
            store.write_json(self.out / "versions.json", versions(self.world))
            self.ingredients.facts.save(self.out)

    def _check_same(self) -> None:
        old = store.run_config(self.out)
        for section, values in self.config.to_dict().items():
            before = old.to_dict()[section]
            for name in values if isinstance(values, dict) else ():
                if values[name] != before[name] and f"{section}.{name}" not in MAY_CHANGE:
                    raise UserError(
                        f"option {section}.{name}: found {values[name]!r}, but the run in {self.out} was "
                        f"begun with {before[name]!r}; resume with that, or begin another run."
                    )
        facts, now = store.Facts.load(self.out), self.ingredients.facts
        if facts != now:
            changed = next(key for key, value in vars(facts).items() if value != vars(now)[key])
            raise UserError(
                f"{self.out}: the run was begun on other data ({changed} differs); resume it with the "
                "--train folder and columns it was begun with."
            )

    def _restore(self, folder: Path) -> None:
        path = folder / "model.safetensors"
        store.fit_weights(self.model, store.load_weights(path), path)
        state = store.load_state(folder)
        self.optimizer.load_state_dict(state["optimizer"])
        self.stepper.scaler.load_state_dict(state["scaler"])
        if self.average is not None:
            self.average.load(store.load_weights(folder / "average.safetensors"), state["average_updates"])
        self.step, self.best = state["step"], state["best"]
        self.skipped, self.skipped_in_a_row = state["skipped"], state["skipped_in_a_row"]
        self.window = state["window"]
        self.saved_step = self.step

    def save(self) -> None:
        """A checkpoint of this step, by rank 0."""
        if not self.world.first or self.saved_step == self.step:
            return
        weights: dict[str, dict[str, Tensor]] = {"model": self.model.state_dict()}
        if self.average is not None:
            weights["average"] = self.average.weights
        state = {
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.stepper.scaler.state_dict(),
            "average_updates": self.average.updates if self.average else 0,
            "step": self.step,
            "best": self.best,
            "skipped": self.skipped,
            "skipped_in_a_row": self.skipped_in_a_row,
            "window": self.window,
        }
        store.save_checkpoint(self.out, self.step, weights, state, self.config.train.keep_checkpoints)
        self.saved_step = self.step

    # The loop

    def train(self, max_steps: int | None, signals: Signals) -> dict[str, Any]:
        """From this step to the last."""
        settings = self.config.train
        last = settings.epochs * self.steps_per_epoch
        last = last if max_steps is None else min(last, max_steps)
        log = RunLog(self.out, self.step) if self.world.first else None
        began, first, stopped, evaluation = time.perf_counter(), self.step, "", {}
        self.progress.start("training", last - self.step, "steps")
        reading = self._batches(last)
        self.clock = time.perf_counter()
        while self.step < last:
            with self.stepper.times.part("data"):
                parts = [next(reading).to(self.world.device) for _ in range(settings.accumulate)]
            result = self.stepper(parts, self.step, stop=bool(signals.name))
            self._guard(parts, result)
            self.step += 1
            self._report(parts, result, log)
            epoch_ends = self.step % self.steps_per_epoch == 0
            if result.stop:
                stopped = signals.name or "another rank's signal"
                break
            every = settings.evaluate_every
            if epoch_ends and every and self.step < last and self.step // self.steps_per_epoch % every == 0:
                self._evaluate(log)
                self.save()
            elif self.step % settings.checkpoint_every == 0:
                self.save()
        self.progress.finish()
        self.save()
        seconds = time.perf_counter() - began
        if not stopped:
            if self.world.first:
                store.save_weights(self.out / "model.safetensors", self.judged())
            evaluation = self._evaluate(log)
        if log is not None:
            log.close()
        metrics = {
            "step": self.step,
            "epochs": self.step / self.steps_per_epoch,
            "seconds": seconds,
            "images_per_s": (self.step - first) * settings.batch / max(seconds, 1e-9),
            "skipped": self.skipped,
            "photos_unreadable": len(self.unreadable),
            "stopped": stopped,
            "evaluation": evaluation,
        }
        if self.world.first:
            store.write_json(self.out / "metrics.json", metrics)
        self.world.wait()
        return metrics

    def _batches(self, last: int) -> Iterator[Batch]:
        settings, world = self.config.train, self.world
        photos = self.ingredients.photos
        schedule = Schedule(
            len(photos),
            settings.seed,
            settings.batch,
            settings.accumulate,
            world.rank,
            world.size,
            self.step,
            last,
        )
        return batches(photos, schedule, pinned=world.device.type == "cuda")

    def _guard(self, parts: list[Batch], result: StepResult) -> None:
        """Count a step without finite numbers; give up after too many in a row."""
        if result.finite:
            self.skipped_in_a_row = 0
            return
        self.skipped += 1
        self.skipped_in_a_row += 1
        self.progress.note(f"step {self.step}: loss or gradient is not finite; the step was skipped")
        if self.skipped_in_a_row >= self.config.train.nonfinite_limit:
            index = self.ingredients.photos.index
            ids = [int(index.image_ids[row]) for part in parts for row in part.rows]
            path = save_batch(self.out, self.step, parts, ids)
            raise UserError(
                f"{self.out}: {self.skipped_in_a_row} steps in a row, up to step {self.step}, had a loss or "
                f"gradient that is not finite; the last batch is saved in {path.name}; begin again with a "
                "lower train.lr or train.precision=fp32."
            )

    def _report(self, parts: list[Batch], result: StepResult, log: RunLog | None) -> None:
        for part in parts:
            for row, fault in zip(part.rows, part.faults, strict=True):
                if fault and row not in self.unreadable:
                    self.unreadable.add(row)
                    self.progress.note(f"{fault}; it is trained on as a black photo without objects")
        self.progress.advance(1, loss=result.losses["total"], lr=result.rate)
        if result.finite:
            self.window.append(result.losses)
        if self.step % self.config.train.log_every:
            return
        times, now = self.stepper.times.take(), time.perf_counter()
        figures = {
            key: sum(w[key] for w in self.window) / len(self.window) for key in result.losses if self.window
        }
        figures = {f"loss_{key}": value for key, value in figures.items()}
        figures |= {"lr": result.rate, "skipped": self.skipped, "epoch": self.step / self.steps_per_epoch}
        figures |= {f"seconds_{name}": value / self.config.train.log_every for name, value in times.items()}
        figures["images_per_s"] = self.config.train.log_every * self.config.train.batch / (now - self.clock)
        if self.world.device.type == "cuda":
            figures["memory_mib"] = torch.cuda.max_memory_allocated(self.world.device) / 2**20
        if log is not None:
            log.write("train", self.step, figures)
        self.window, self.clock = [], now

    # Evaluation

    def judged(self) -> dict[str, Tensor]:
        """The weights the run is judged by: the moving average where there is one."""
        return self.average.weights if self.average is not None else self.model.state_dict()

    def _evaluate(self, log: RunLog | None) -> dict[str, Any]:
        """Figures on the validation data, by rank 0 while the others wait; keeps the best weights."""
        figures: dict[str, Any] = {}
        if self.val_data is not None and self.world.first:
            from detector.evaluate import evaluate_model

            own = {name: value.clone() for name, value in self.model.state_dict().items()}
            self.model.load_state_dict(self.judged())
            metrics = evaluate_model(
                self.model, self.config, self.val_data, self.ingredients.facts, progress=self.progress
            )
            self.model.load_state_dict(own)
            self.model.train()
            figures = metrics.as_dict()
            plain = {key: value for key, value in figures.items() if isinstance(value, int | float)}
            if log is not None:
                log.write("evaluation", self.step, plain)
            value = plain.get(self.config.train.best_metric, float("-inf"))
            if value > self.best:
                self.best = value
                store.save_weights(self.out / "best.safetensors", self.judged())
        self.world.wait()
        self.clock = time.perf_counter()
        return figures


MAY_CHANGE = {
    "train.epochs",
    "train.device",
    "train.log_every",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "train.evaluate_every",
    "train.best_metric",
    "train.nonfinite_limit",
    "data.workers",
    "data.cache_photos",
    *(f"prior.{name}" for name in ("source", "rho", "limit", "fill")),
    *(f"inference.{name}" for name in ("classification", "top", "restrict_to_present", "batch")),
}
"""Options that a resumed run may be given anew; all others decide what its steps compute."""
