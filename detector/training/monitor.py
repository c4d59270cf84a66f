"""Monitor of a run: the log, the progress display, and warnings.

Non-finite losses or gradients: the step is skipped; after too many in a row the batch is saved and the run
stops. Spikes: a loss or gradient norm far above its recent values is logged with the photos of the step.
Unreadable photos: one note each.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cckt.cache_builder.base.errors import UserError, counted, listed
from cckt.cache_builder.base.progress import Progress
from cckt.detector.data.batch import Batch
from cckt.detector.data.schedule import Schedule
from cckt.detector.losses.objective import first_steps
from cckt.detector.runs.log import RunLog
from cckt.detector.training.process import memory_mib
from cckt.detector.training.run import Run
from cckt.detector.training.step import StepResult, save_batch

WINDOW, MIN_HISTORY = 100, 20
"""Number of previous steps that a value is compared with, at most and at least."""
MAX_OVERFLOWS = 32
"""Consecutive fp16 overflows that are normal: the loss scale starts at 2^16 and is halved each time."""
SPIKE_FIGURES = ("total", "gradient")
"""Figures that are checked for spikes: the minimised loss, and the gradient norm before clipping."""
SHOWN_TIMES = ("data", "forward", "matching", "backward")
"""Parts of a step whose share of the time is displayed."""


@dataclass(frozen=True)
class Spike:
    """A value far above those of the previous steps, which had `median` and `deviation`."""

    figure: str
    value: float
    median: float
    deviation: float

    def __str__(self) -> str:
        return f"{self.figure} {self.value:.3g}, previously {self.median:.3g} ± {self.deviation:.2g}"


class SpikeDetector:
    """Finds values more than `factor` deviations above the median of the last `WINDOW` values.

    The deviation is 1.4826 times the median absolute deviation (the standard deviation of a normal
    distribution), and at least a tenth of the median, so that a nearly constant loss has no spikes.
    factor: 0 finds none. history: of the run that is resumed.
    """

    def __init__(self, factor: float, history: Mapping[str, list[float]] | None = None) -> None:
        self.factor = factor
        self.history: dict[str, list[float]] = {
            name: list(values) for name, values in (history or {}).items()
        }

    def find(self, figures: Mapping[str, float]) -> list[Spike]:
        """Return the spikes among the finite figures of a step, and add the figures to the history."""
        found = []
        for name in SPIKE_FIGURES if self.factor else ():
            past = self.history.setdefault(name, [])
            if len(past) >= MIN_HISTORY:
                median = statistics.median(past)
                deviation = 1.4826 * statistics.median(abs(value - median) for value in past)
                deviation = max(deviation, 0.1 * abs(median))
                if figures[name] > median + self.factor * deviation:
                    found.append(Spike(name, figures[name], median, deviation))
            past.append(figures[name])
            del past[:-WINDOW]
        return found


class Monitor:
    """Records every step of a run. `log` is None on ranks other than the first."""

    def __init__(self, run: Run, schedule: Schedule, log: RunLog | None, progress: Progress) -> None:
        self.run, self.schedule, self.log, self.progress = run, schedule, log, progress
        self.settings, before = run.config.train, run.monitor_state
        self.term_starts = first_steps(run.config, run.steps_per_epoch)
        self.skipped: int = before.get("skipped", 0)
        self.skipped_in_a_row: int = before.get("skipped_in_a_row", 0)
        self.overflows_in_a_row: int = before.get("overflows_in_a_row", 0)
        self.window: list[dict[str, float]] = list(before.get("window", []))
        self.spikes = SpikeDetector(self.settings.spike_factor, before.get("spikes"))
        self.unreadable: set[str] = set()
        self.seconds: dict[str, float] = {}
        """Seconds of all logged steps of this process, by part of the step."""
        self.restart_clock()

    def state(self) -> dict[str, Any]:
        """Return the state for checkpoints, so that a resumed run has the log of an uninterrupted one."""
        return {
            "skipped": self.skipped,
            "skipped_in_a_row": self.skipped_in_a_row,
            "overflows_in_a_row": self.overflows_in_a_row,
            "window": self.window,
            "spikes": self.spikes.history,
        }

    def restart_clock(self) -> None:
        """Exclude the time since the last step, which was not training, from the time per step."""
        self.clock = time.perf_counter()

    def record(self, step: int, parts: Sequence[Batch], result: StepResult) -> None:
        """Record a step. step: number of optimiser steps before this one.

        Raises UserError after `train.nonfinite_limit` consecutive steps with a non-finite loss or gradient.
        """
        for part in parts:
            # A mosaic has a fault for each of its photos; their sentences name the files.
            for fault in (one for faults in part.faults for one in faults.split("\n") if one):
                if fault not in self.unreadable:
                    self.unreadable.add(fault)
                    self.progress.note(f"{fault}; training uses a black image without objects instead")
        if result.finite:
            self.skipped_in_a_row = self.overflows_in_a_row = 0
            self.window.append(result.losses)
            self._find_spikes(step, result)
        elif result.overflow and self.overflows_in_a_row < MAX_OVERFLOWS:
            self.overflows_in_a_row += 1  # normal while the loss scale is being adjusted
        else:
            self._skip(step, parts)
        self.progress.advance(1, loss=result.losses["total"], lr=result.rate)
        if (step + 1) % self.settings.log_every == 0:
            self._report(step + 1, result)

    def _find_spikes(self, step: int, result: StepResult) -> None:
        if step in self.term_starts:  # the total has one more term from this step on
            self.spikes.history.clear()
        for spike in self.spikes.find(result.losses):
            ids = self._image_ids(step)
            self.progress.note(f"step {step}: spike of {spike}; photos {listed(ids, 12)}")
            if self.log is not None:
                self.log.event("spike", step + 1, vars(spike) | {"image_ids": ids})

    def _skip(self, step: int, parts: Sequence[Batch]) -> None:
        """Count a step with a non-finite loss or gradient; raise UserError after too many in a row."""
        self.skipped += 1
        self.skipped_in_a_row += 1
        self.progress.note(f"step {step}: non-finite loss or gradient; the step was skipped")
        if self.log is not None:
            self.log.event("skipped", step + 1, {"image_ids": self._image_ids(step)})
        if self.skipped_in_a_row >= self.settings.nonfinite_limit:
            index = self.run.ingredients.photos.index
            ids = [int(index.image_ids[row]) for part in parts for row in part.rows]
            path = save_batch(self.run.out, step, parts, ids)
            raise UserError(
                f"{self.run.out}: found {counted(self.skipped_in_a_row, 'consecutive step')}, up to step "
                f"{step}, with "
                f"a non-finite loss or gradient (the last batch is in {path.name}); start a new run with a "
                "lower train.lr or train.precision=fp32."
            )

    def _image_ids(self, step: int) -> list[int]:
        """Return the image ids of a step, over all ranks."""
        index = self.run.ingredients.photos.index
        return [int(index.image_ids[row]) for row in self.schedule.rows(step)]

    def _report(self, step: int, result: StepResult) -> None:
        """Write a line of the log and update the display, with means over the steps since the last line."""
        now, every = time.perf_counter(), self.settings.log_every
        times = {name: value / every for name, value in self.run.stepper.times.take().items()}
        whole = (now - self.clock) / every
        for name, value in (times | {"step": whole}).items():
            self.seconds[name] = self.seconds.get(name, 0.0) + value * every
        losses = (
            {key: sum(w[key] for w in self.window) / len(self.window) for key in self.window[0]}
            if self.window
            else {}
        )
        figures: dict[str, float] = {f"loss_{key}": value for key, value in losses.items()}
        figures |= {"lr": result.rate, "skipped": self.skipped, "epoch": step / self.run.steps_per_epoch}
        figures |= {f"seconds_{name}": value for name, value in times.items()} | {"seconds_step": whole}
        figures |= {
            "images_per_s": self.settings.batch / whole,
            "memory_mib": memory_mib(self.run.world.device),
        }
        if self.log is not None:
            self.log.write("train", step, figures)
        split = {name: f"{100 * times.get(name, 0.0) / whole:.0f}%" for name in SHOWN_TIMES}
        self.progress.show(
            {
                "losses": losses,
                "pace": {name: figures[name] for name in ("epoch", "lr", "images_per_s")},
                "step": {"seconds": whole, **split},
                "memory": {"MiB": round(figures["memory_mib"])},
                "trouble": {"skipped": self.skipped} if self.skipped else {},
            }
        )
        self.window, self.clock = [], now

    @property
    def data_wait_share(self) -> float:
        """Share of the logged steps' time spent waiting for data; 0 before the first line of the log."""
        return self.seconds.get("data", 0.0) / max(self.seconds.get("step", 0.0), 1e-9)
