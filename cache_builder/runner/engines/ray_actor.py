"""The worker on a node of a Ray cluster, and how it runs a maker. Ray is not imported here.

A worker runs the same function as the driver (`cache_crops`, say) with the same arguments, so it opens the
index, loads the teacher and decodes photos on its own node, and writes chunks itself. Only numbers of units
and counts travel. Errors travel as sentences, because an exception of one node may not exist on another.
"""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, Protocol

from cckt import __version__
from cckt.cache_builder.base.disk_faults import explain
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.runner.engines.engine import using
from cckt.cache_builder.runner.pipeline import make_units
from cckt.cache_builder.runner.plan import Plan
from cckt.cache_builder.runner.run_report import RunReport
from cckt.cache_builder.store import ColumnSpec, OtherColumn

COUNTS = ("made", "rows", "copied", "invalid", "read_wait", "map_seconds", "write_seconds")
"""Fields of `RunReport` that add up over workers."""


class Work(Protocol):
    """What a worker does: stages of units. A simple work has one stage."""

    def stage(self) -> str | None:
        """Wait for the next stage and return its name; None at the end of the work."""

    def make(self, unit: Any) -> Any:
        """Make a unit of the current stage and return what the driver needs to know of it."""


class Worker:
    """The actor. Each method returns {"value": ...}, {"error": sentence, "code": exit code} or {"bug": text}.

    Nothing is done before `open`, so that a worker of another version can still say which version it is.
    """

    def __init__(self) -> None:
        self._work: Work | None = None

    def open(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """Begin a job: "version" of the driver, "build" and "arguments" of the `Work`; return its stage.

        "folder": of the driver, so that relative paths mean the same here, if it exists on this node.
        """

        def begin() -> str | None:
            if job["version"] != __version__:
                raise UserError(
                    f"found cckt {__version__}, expected {job['version']} as on the driver; install that "
                    "version there with pip install, then run the same command again"
                )
            with contextlib.suppress(OSError):
                os.chdir(job["folder"])
            self._work = job["build"](*job["arguments"])
            return self._work.stage()

        return _answer(begin)

    def stage(self) -> dict[str, Any]:
        """End the stage and return the next one."""
        assert self._work is not None, "expected open before stage"
        return _answer(self._work.stage)

    def make(self, unit: Any) -> dict[str, Any]:
        """Make a unit of the stage."""
        work = self._work
        assert work is not None, "expected open before make"
        return _answer(lambda: work.make(unit))


def _answer(call: Callable[[], Any]) -> dict[str, Any]:
    node = socket.gethostname()
    try:
        return {"value": call(), "node": node}
    except OtherColumn as error:
        return {"error": _another_recipe(error.found, error.wanted), "code": 2, "node": node}
    except UserError as error:
        return {"error": str(error), "code": error.exit_code, "node": node}
    except Exception as error:
        known = explain(error) if isinstance(error, OSError) else None
        if known is not None:
            return {"error": str(known), "code": known.exit_code, "node": node}
        return {"bug": f"{type(error).__name__}: {error}", "node": node}


def _another_recipe(expected: ColumnSpec, found: ColumnSpec) -> str:
    """Why a worker cannot make chunks of a column; `found`: as this node would make it."""
    if found.index_digest != expected.index_digest:
        what, here, there = "index", found.index_digest, expected.index_digest
    else:
        what, here, there = "recipe", found.recipe_digest, expected.recipe_digest
        teachers = [(spec.recipe.get("teacher") or {}) for spec in (found, expected)]
        weights = [one.get("weight_digest") for one in teachers if isinstance(one, dict)]
        if len(weights) == 2 and weights[0] != weights[1]:
            what, here, there = "teacher", str(weights[0]), str(weights[1])
    return (
        f"column {expected.name} would get another {what} there: found {here}, expected {there} as on the "
        "driver; give that node the same files as the driver, then run the same command again"
    )


class MakerWork:
    """A `Work` that calls a maker of columns; each of its runs with missing chunks is a stage.

    Runs without missing chunks are passed over at once. So a worker that joins late reaches the stage in
    which the others are.
    """

    begins, makes = False, True

    def __init__(
        self, function: Callable[..., Any], arguments: Sequence[Any], keywords: Mapping[str, Any]
    ) -> None:
        self._stages: queue.Queue[tuple[str | None, BaseException | None]] = queue.Queue()
        self._units: _AssignedUnits | None = None
        call = partial(function, *arguments, **keywords)
        threading.Thread(target=self._work, args=(call,), name="cckt-maker", daemon=True).start()

    def stage(self) -> str | None:
        """See `Work.stage`."""
        if self._units is not None:
            self._units.end()
        name, error = self._stages.get()
        if error is not None:
            raise error
        return name

    def make(self, unit: int) -> list[dict[str, Any]]:
        """See `Work.make`; returns what was added to the report of each column since the last call."""
        assert self._units is not None, "expected a stage before make"
        return self._units.make(unit)

    def run(self, plan: Plan) -> list[RunReport]:
        """See `Engine.run`: make the units that `make` gets, until `stage` ends the stage."""
        reports = [RunReport() for _ in plan.targets]
        missing = plan.missing()
        if plan.unmade(missing):
            self._units = units = _AssignedUnits(plan, missing, reports)
            self._stages.put((plan.identity, None))
            try:
                make_units(plan, units, reports)
            except BaseException as error:
                units.fail(error)
                raise
        for target, report in zip(plan.targets, reports, strict=True):
            report.manifest = target.writer.try_finish()
        return reports

    def _work(self, call: Callable[[], Any]) -> None:
        try:
            with using(self):
                call()
            self._stages.put((None, None))
        except BaseException as error:
            self._stages.put((None, error))


class _AssignedUnits:
    """A `UnitSource` of the units that the driver assigns; `make` runs in other threads than the rest."""

    def __init__(self, plan: Plan, missing: Sequence[set[int]], reports: Sequence[RunReport]) -> None:
        self._plan, self._missing, self._reports = plan, missing, reports
        self._changed = threading.Condition()
        self._queue: deque[int] = deque()
        self._made: set[int] = set()
        self._told = [RunReport() for _ in reports]
        self._ended = False
        self._error: BaseException | None = None

    def make(self, unit: int) -> list[dict[str, Any]]:
        """Queue a unit, wait until it is written, and return the changes of the reports."""
        with self._changed:
            if any(self.lacking(unit)) and unit not in self._made:
                self._queue.append(unit)
                self._changed.notify_all()
                self._changed.wait_for(lambda: unit in self._made or self._error is not None)
            if self._error is not None:
                raise self._error
            return [self._change(at, report) for at, report in enumerate(self._reports)]

    def end(self) -> None:
        """End the stage."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def fail(self, error: BaseException) -> None:
        """End all calls of `make` with an error."""
        with self._changed:
            self._error = error
            self._changed.notify_all()

    def next(self) -> int | None:
        """See `UnitSource.next`."""
        with self._changed:
            return self._queue.popleft() if self._queue else None

    def take(self, unit: int) -> bool:
        """See `UnitSource.take`."""
        with self._changed:
            if unit not in self._queue:
                return False
            self._queue.remove(unit)
            return True

    def lacking(self, unit: int) -> list[list[int]]:
        """See `UnitSource.lacking`."""
        return self._plan.lacking(unit, self._missing)

    def done(self, unit: int) -> None:
        """See `UnitSource.done`."""
        with self._changed:
            self._made.add(unit)
            self._changed.notify_all()

    def wait(self) -> bool:
        """See `UnitSource.wait`."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._ended)
            return bool(self._queue)

    def _change(self, at: int, report: RunReport) -> dict[str, Any]:
        told = self._told[at]
        change: dict[str, Any] = {name: getattr(report, name) - getattr(told, name) for name in COUNTS}
        notes = dict(report.notes)
        change["notes"] = {row: why for row, why in notes.items() if row not in told.notes}
        self._told[at] = RunReport(**{**asdict(report), "notes": notes, "manifest": None})
        return change
