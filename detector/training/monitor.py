"""Watching a run: what its log and its screen say, and what is not as it should be.

Numbers that are none: the step was skipped; after too many in a row the batch is saved and the run stops.
Spikes: a loss or gradient far above what it has been of late, logged with the photos of the step.
Photos that cannot be read: said once each.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.progress import Progress
from cckt.detector.data.batch import Batch
from cckt.detector.data.schedule import Schedule
from cckt.detector.losses.objective import first_steps
from cckt.detector.runs.log import RunLog
from cckt.detector.training.process import memory_mib
from cckt.detector.training.run import Run
from cckt.detector.training.step import StepResult, save_batch

WINDOW, ENOUGH = 100, 20
"""Steps that a spike is compared with, and how many there must be before anything is called one."""
OVERFLOWS = 32
"""Steps in a row that fp16 may overflow in: its scale begins at 2^16 and is halved each time."""
SPIKY = ("total", "gradient")
"""The figures that are watched for spikes: what is minimised, and the norm before clipping."""
SHOWN_TIMES = ("data", "forward", "matching", "backward")


@dataclass(frozen=True)
class Spike:
    """A figure out of its range: `value`, where the steps before had `median` and `deviation`."""

    figure: str
    value: float
    median: float
    deviation: float

    def __str__(self) -> str:
        return f"{self.figure} {self.value:.3g}, before it {self.median:.3g} ± {self.deviation:.2g}"


class Spikes:
    """Finds values more than `factor` deviations above the median of the last `WINDOW`.

    The deviation is 1.4826 times the median absolute deviation (that of a normal distribution), and at least
    a tenth of the median: a loss that hardly moves has no spikes of a hundredth. before: `history` of a run
    that is resumed. factor: 0 finds nothing.
    """

    def __init__(self, factor: float, before: Mapping[str, list[float]] | None = None) -> None:
        self.factor = factor
        self.history: dict[str, list[float]] = {name: list(values) for name, values in (before or {}).items()}

    def look(self, figures: Mapping[str, float]) -> list[Spike]:
        """The spikes among finite figures, which are then part of what the next ones are compared with."""
        found = []
        for name in SPIKY if self.factor else ():
            past = self.history.setdefault(name, [])
            if len(past) >= ENOUGH:
                median = statistics.median(past)
                deviation = 1.4826 * statistics.median(abs(value - median) for value in past)
                deviation = max(deviation, 0.1 * abs(median))
                if figures[name] > median + self.factor * deviation:
                    found.append(Spike(name, figures[name], median, deviation))
            past.append(figures[name])
            del past[:-WINDOW]
        return found


class Watch:
    """Looks at every step of a run. `log` is None on ranks other than the first."""

    def __init__(self, run: Run, schedule: Schedule, log: RunLog | None, progress: Progress) -> None:
        self.run, self.schedule, self.log, self.progress = run, schedule, log, progress
        self.settings, before = run.config.train, run.watched
        self.term_starts = first_steps(run.config, run.steps_per_epoch)
        self.skipped: int = before.get("skipped", 0)
        self.skipped_in_a_row: int = before.get("skipped_in_a_row", 0)
        self.overflows_in_a_row: int = before.get("overflows_in_a_row", 0)
        self.window: list[dict[str, float]] = list(before.get("window", []))
        self.spikes = Spikes(self.settings.spike_factor, before.get("spikes"))
        self.unreadable: set[int] = set()
        self.seconds: dict[str, float] = {}
        """Of all steps of this session that were logged, by part."""
        self.restart_clock()

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds of this, so that the log of a resumed run is that of an unbroken one."""
        return {
            "skipped": self.skipped,
            "skipped_in_a_row": self.skipped_in_a_row,
            "overflows_in_a_row": self.overflows_in_a_row,
            "window": self.window,
            "spikes": self.spikes.history,
        }

    def restart_clock(self) -> None:
        """What came before now was no training."""
        self.clock = time.perf_counter()

    def look(self, step: int, parts: Sequence[Batch], result: StepResult) -> None:
        """step: optimiser steps done before this one. Raises UserError after too many without numbers."""
        for part in parts:
            for row, fault in zip(part.rows, part.faults, strict=True):
                if fault and row not in self.unreadable:
                    self.unreadable.add(row)
                    self.progress.note(f"{fault}; it is trained on as a black photo without objects")
        if result.finite:
            self.skipped_in_a_row = self.overflows_in_a_row = 0
            self.window.append(result.losses)
            self._look_for_spikes(step, result)
        elif result.overflow and self.overflows_in_a_row < OVERFLOWS:
            self.overflows_in_a_row += 1  # no fault of the data, until halving the scale no longer helps
        else:
            self._skip(step, parts)
        self.progress.advance(1, loss=result.losses["total"], lr=result.rate)
        if (step + 1) % self.settings.log_every == 0:
            self._report(step + 1, result)

    def _look_for_spikes(self, step: int, result: StepResult) -> None:
        if step in self.term_starts:  # from this step on the sum has one more term
            self.spikes.history.clear()
        for spike in self.spikes.look(result.losses):
            ids = self._image_ids(step)
            self.progress.note(f"step {step}: a spike, {spike}; photos {_short(ids)}")
            if self.log is not None:
                self.log.event("spike", step + 1, vars(spike) | {"image_ids": ids})

    def _skip(self, step: int, parts: Sequence[Batch]) -> None:
        """Count a step without finite numbers; give up after too many in a row."""
        self.skipped += 1
        self.skipped_in_a_row += 1
        self.progress.note(f"step {step}: loss or gradient is not finite; the step was skipped")
        if self.log is not None:
            self.log.event("skipped", step + 1, {"image_ids": self._image_ids(step)})
        if self.skipped_in_a_row >= self.settings.nonfinite_limit:
            index = self.run.ingredients.photos.index
            ids = [int(index.image_ids[row]) for part in parts for row in part.rows]
            path = save_batch(self.run.out, step, parts, ids)
            raise UserError(
                f"{self.run.out}: {self.skipped_in_a_row} steps in a row, up to step {step}, had a loss or "
                f"gradient that is not finite; the last batch is saved in {path.name}; begin again with a "
                "lower train.lr or train.precision=fp32."
            )

    def _image_ids(self, step: int) -> list[int]:
        """Of the step's photos, over all ranks."""
        index = self.run.ingredients.photos.index
        return [int(index.image_ids[row]) for row in self.schedule.rows(step)]

    def _report(self, step: int, result: StepResult) -> None:
        """A line of the log, and the table on the screen; means over the steps since the last."""
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
        """Of the steps' time, what was spent waiting for data; 0 before the first line of the log."""
        return self.seconds.get("data", 0.0) / max(self.seconds.get("step", 0.0), 1e-9)


def _short(ids: list[int]) -> str:
    return ", ".join(map(str, ids[:12])) + (f" and {len(ids) - 12} more" if len(ids) > 12 else "")
