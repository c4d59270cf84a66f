"""Log of a run, and timing of the parts of a step.

The log is metrics.jsonl, TensorBoard if it is installed, and Weights & Biases if train.wandb_project is set.
"""

from __future__ import annotations

import importlib
import json
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from cckt.cache_builder.base.atomic_files import plain, write_bytes, write_json
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.untrusted.regular_files import read_regular
from cckt.cache_builder.base.untrusted.text import parse_json
from cckt.detector.config.config import Config
from cckt.detector.runs.run_folder import read_json

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

LOG_FILE = "metrics.jsonl"


class RunLog:
    """Figures of a run by step.

    On resume, lines after the checkpoint are removed, so the log is the same as that of an uninterrupted run.

    from_step: step of the checkpoint. evaluated: step of its last evaluation; later evaluations, which are in
    no checkpoint, are removed too. config: config of the run; None logs to no Weights & Biases project.
    Raises UserError if Weights & Biases cannot start.
    """

    def __init__(
        self, run: Path, from_step: int, config: Config | None = None, evaluated: int | None = None
    ) -> None:
        self._path = run / LOG_FILE
        self._drop_after(from_step, from_step if evaluated is None else evaluated)
        self._file = self._path.open("a", encoding="utf-8")
        self._board = _tensorboard(run / "tensorboard", from_step)
        self._wandb = _wandb(run, config) if config is not None and config.train.wandb_project else None

    def write(self, kind: str, step: int, figures: Mapping[str, float | int | str]) -> None:
        """Write figures. kind: "train" or "evaluation"; step: number of finished optimiser steps."""
        self._file.write(json.dumps(plain({"kind": kind, "step": step, **figures})) + "\n")
        self._file.flush()
        numbers = {f"{kind}/{name}": value for name, value in figures.items() if not isinstance(value, str)}
        if self._board is not None:
            for name, value in numbers.items():
                self._board.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(numbers, step=step)

    def event(self, kind: str, step: int, facts: Mapping[str, Any]) -> None:
        """Write an event ("spike", "skipped") with JSON values to metrics.jsonl only."""
        self._file.write(json.dumps(plain({"kind": kind, "step": step, **facts})) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close all logs; calling it again does nothing."""
        self._file.close()
        if self._board is not None:
            self._board.close()
        if self._wandb is not None:
            self._wandb.finish()
            self._wandb = None

    def _drop_after(self, step: int, evaluated: int) -> None:
        if self._path.is_file():
            lines = read_regular(self._path).splitlines(True)
            write_bytes(self._path, b"".join(line for line in lines if _is_kept(line, step, evaluated)))


def _is_kept(line: bytes, step: int, evaluated: int) -> bool:
    """Return whether a line is at or before the checkpoint; an incomplete line is not."""
    try:
        known = parse_json(line)
        return float(known["step"]) <= (evaluated if known["kind"] == "evaluation" else step)
    except (ValueError, KeyError, TypeError):
        return False


def _tensorboard(folder: Path, from_step: int) -> SummaryWriter | None:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=from_step + 1 if from_step else None)


def check_wandb(project: str) -> None:
    """Raise UserError if `project` is not empty and wandb is not installed."""
    if project:
        try:
            importlib.import_module("wandb")
        except ImportError:
            raise UserError(
                f"option train.wandb_project: found {project!r}, but wandb is not installed; pip install "
                "'cckt[wandb]', or leave the option empty."
            ) from None


def _wandb(run: Path, config: Config) -> Any:
    """Start or resume the run at Weights & Biases; its id is kept in wandb.json."""
    wandb: Any = importlib.import_module("wandb")
    known = run / "wandb.json"
    if not known.is_file():
        write_json(known, {"id": secrets.token_hex(8)})
    name = read_json(known, "the id of a run").get("id")
    try:
        return wandb.init(
            project=config.train.wandb_project,
            id=name,
            name=run.resolve().name,
            dir=str(run),
            config=config.to_dict(),
            resume="allow",
        )
    except Exception as error:
        raise UserError(
            f"option train.wandb_project: wandb could not begin a run ({error}); log in with wandb login, "
            "set WANDB_MODE=offline, or leave the option empty."
        ) from error


class StepTimes:
    """Seconds spent in the named parts of a step, summed until `take`.

    On CUDA, events mark the parts and are read only in `take`, so timing adds no synchronisation.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._seconds: dict[str, float] = {}
        self._events: list[tuple[str, Any, Any]] = []

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add the duration of the block to `name`."""
        began = time.perf_counter()
        first = self._event() if self._cuda and name != "data" else None
        yield
        if first is None:
            self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - began
        else:
            self._events.append((name, first, self._event()))

    def take(self) -> dict[str, float]:
        """Return the seconds of each part since the last call."""
        for name, first, last in self._events:
            last.synchronize()
            self._seconds[name] = self._seconds.get(name, 0.0) + first.elapsed_time(last) / 1000
        seconds, self._seconds, self._events = self._seconds, {}, []
        return seconds

    @staticmethod
    def _event() -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event
