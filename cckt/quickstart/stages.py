"""The stages of a quickstart folder: its plan, and runs that continue where they were stopped."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cckt.cache_builder.base.atomic_files import plain, write_json
from cckt.cache_builder.base.errors import UserError, counted
from cckt.cache_builder.base.progress import Progress
from cckt.cache_builder.runner import Interrupted
from cckt.detector.config.config import Config
from cckt.detector.evaluation.evaluate import evaluate_run
from cckt.detector.evaluation.protocols import SPLIT_FIGURES
from cckt.detector.runs.checkpoints import newest_checkpoint
from cckt.detector.runs.json_fields import as_written
from cckt.detector.runs.run_folder import read_json, run_config
from cckt.detector.training.train import finished, train
from cckt.quickstart.plan import QuickstartPlan

ASKED, ASKED_DRAWS = (1, 3, 8), 25
"""Words of a request, and requests of each size, that are drawn to measure what `cckt predict` finds."""
MADE_BY = "a folder made by cckt quickstart"


class Stages:
    """Stages of a quickstart folder: its plan, and the seconds of each stage over all sessions."""

    def __init__(self, out: Path, plan: QuickstartPlan, progress: Progress) -> None:
        self.progress = progress
        self._file = out / "quickstart.json"
        self._plan = json.loads(json.dumps(asdict(plan)))
        self.seconds: dict[str, float] = {}
        if self._file.exists():
            known = read_json(self._file, MADE_BY)
            with as_written(self._file, "restore the file, or name another --out"):
                photos = int(known["plan"]["train_photos"])
                self.seconds = {str(stage): float(value) for stage, value in known["seconds"].items()}
            if known["plan"] != self._plan:
                raise UserError(
                    f"--out {out}: holds a quickstart of another plan ("
                    f"{counted(photos, 'photo')}, expected {plan.train_photos}); name another folder, or "
                    "delete this one."
                )
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
        self,
        stage: str,
        evaluation: str,
        config: Config,
        train_data: Path,
        held_out: Path,
        run: Path,
        start: Path | None = None,
    ) -> dict[str, Any]:
        """Train and evaluate a run, or resume it; return its figures on the held-out photos.

        stage, evaluation: names under which the seconds of training and of evaluation are kept. start: run
        whose weights a new run starts from.
        """
        known = finished(run)
        if known and run_config(run) == config:
            with as_written(run / "metrics.json"):
                return known | {name: known[name] for name in SPLIT_FIGURES}
        begin = time.monotonic()
        resume = newest_checkpoint(run)[0] is not None
        try:
            figures = train(
                config, train_data, held_out, run, resume=resume, start=start, progress=self.progress
            )
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

    def evaluate(self, stage: str, run: Path, held_out: Path, priors: str) -> dict[str, Any]:
        """Return the figures of a finished run with other priors."""
        with self.timed(stage):
            figures = evaluate_run(run, held_out, priors=priors, progress=self.progress).as_dict()
        return {name: figures[name] for name in SPLIT_FIGURES}

    def _add(self, stage: str, seconds: float) -> None:
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds
        self._save()

    def _save(self) -> None:
        write_json(self._file, {"plan": self._plan, "seconds": self.seconds})
