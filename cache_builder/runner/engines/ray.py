"""The engine `ray`: a driver that assigns units to the actors of a Ray cluster.

Ray places actors, notices which are lost and adds nodes. A unit of chunks stays the unit of work and of
proof: actors write chunks and ledgers as every maker does, and the driver closes the columns.
"""

from __future__ import annotations

import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from cckt import __version__
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.progress import Progress, Silent
from cckt.cache_builder.runner.engines.engine import using
from cckt.cache_builder.runner.engines.local import SLOW, interrupted
from cckt.cache_builder.runner.engines.ray_actor import COUNTS, MakerWork
from cckt.cache_builder.runner.engines.ray_link import linked
from cckt.cache_builder.runner.engines.ray_pool import Actor, ActorPool
from cckt.cache_builder.runner.plan import Plan
from cckt.cache_builder.runner.run_report import RunReport
from cckt.cache_builder.runner.signals import Stop, stoppable

AHEAD = 2
"""Units that an actor has in hand: one that it maps and one that it reads."""

MOST_TRIES = 3
"""Workers that may end with the same unit in hand."""

T = TypeVar("T")


class RayEngine:
    """Makes columns with the actors of a Ray cluster.

    `RayEngine().call(cache_crops, data, "shapeworld")` does what `cache_crops(data, "shapeworld")` does, with
    the same bytes, on every node of the cluster.

    address: see `linked`. actors: the most actors; default: as many as fit on the nodes that are alive, again
    each time a node joins. cpus: cores of an actor, see `placement`.
    """

    begins, makes = True, False

    def __init__(
        self, address: str | None = None, actors: int | None = None, cpus: int | None = None
    ) -> None:
        for option, number in (("--actors", actors), ("--actor-cpus", cpus)):
            if number is not None and number < 1:
                raise UserError(f"{option} is {number}; give at least 1.")
        self._address, self._actors, self._cpus = address, actors, cpus
        self._pool: ActorPool | None = None
        self._ray: Any = None

    def call(self, function: Callable[..., T], *arguments: Any, **keywords: Any) -> T:
        """Call a maker of columns; the cluster makes the chunks of its runs. Return what the maker returns.

        The driver runs the maker too, to check its arguments, to begin and to finish the columns; it loads
        the teacher on the CPU for its digest. Every worker must see the same files under the same paths.
        """
        theirs = {name: value for name, value in keywords.items() if name != "progress"}
        if theirs.get("overwrite"):  # the driver has begun the column, without rows of the old one
            theirs |= {"overwrite": False, "reuse": "none"}
        device = keywords.get("device", "auto")

        def arguments_for(placed: str, cpus: int) -> tuple[Any, ...]:
            changes: dict[str, Any] = {"device": placed} if "device" in theirs else {}
            if "workers" in theirs and theirs["workers"] is None:
                changes["workers"] = cpus
            return function, arguments, {**theirs, **changes}

        if keywords.get("device") == "auto":
            keywords = {**keywords, "device": "cpu"}
        with self._opened(MakerWork, arguments_for, device), using(self):
            return function(*arguments, **keywords)

    def map(
        self,
        build: Callable[..., Any],
        arguments_for: Callable[[str, int], tuple[Any, ...]],
        units: Sequence[Any],
        *,
        device: str = "auto",
        label: str = "work",
        rows: Sequence[int] | None = None,
        unit_name: str = "units",
        progress: Progress | None = None,
    ) -> list[Any]:
        """Return what the `Work` of a build makes of each unit, in order; the work has one stage, "work".

        build, arguments_for: build(*arguments_for(device, cores)) gives the `Work` of an actor. rows: of each
        unit, for the progress.
        """
        sizes = rows or [1] * len(units)
        results: dict[int, Any] = {}
        progress = progress or Silent()
        progress.start(label, sum(sizes), unit_name)

        def made(number: int, value: Any) -> None:
            results[number] = value
            progress.advance(sizes[number])

        try:
            with self._opened(build, arguments_for, device), stoppable():
                self._make("work", list(range(len(units))), made, lambda number: units[number])
        except (Stop, KeyboardInterrupt) as stop:
            raise interrupted(stop, None, ()) from stop
        finally:
            progress.finish()
        return [results[number] for number in range(len(units))]

    def run(self, plan: Plan) -> list[RunReport]:
        """See `Engine.run`. Raises Interrupted on Ctrl-C and SIGTERM."""
        began = time.perf_counter()
        reports = [RunReport() for _ in plan.targets]
        missing = plan.missing()
        todo = plan.unmade(missing)
        for report, target, lost in zip(reports, plan.targets, missing, strict=True):
            report.skipped = target.writer.n_chunks - len(lost)
        sizes = {unit: plan.rows(unit, missing) for unit in todo}
        plan.progress.start(plan.label, sum(sizes.values()), plan.unit_name)

        def made(unit: int, changes: Sequence[dict[str, Any]]) -> None:
            plan.progress.advance(sizes[unit])
            for report, change in zip(reports, changes, strict=True):
                for name in COUNTS:
                    setattr(report, name, getattr(report, name) + change[name])
                report.notes.update(change["notes"])

        try:
            with stoppable():
                again = self._make(plan.identity, todo, made, lambda unit: unit) if todo else 0
                for target, report in zip(plan.targets, reports, strict=True):
                    report.manifest = target.writer.finish()
                    report.seconds, report.again = time.perf_counter() - began, again
        except (Stop, KeyboardInterrupt) as stop:
            raise interrupted(stop, plan, reports) from stop
        finally:
            plan.progress.finish()
        return reports

    @contextmanager
    def _opened(
        self, build: Callable[..., Any], arguments_for: Callable[[str, int], tuple[Any, ...]], device: str
    ) -> Iterator[None]:
        job = {
            "version": __version__,
            "folder": os.getcwd(),
            "build": build,
            "arguments_for": arguments_for,
        }
        with linked(self._address) as ray, ActorPool(ray, job, self._actors, self._cpus, device) as pool:
            self._ray, self._pool = ray, pool
            yield
        self._pool = None

    def _make(
        self,
        stage: str,
        units: Sequence[int],
        made: Callable[[int, Any], None],
        content: Callable[[int], Any],
    ) -> int:
        """Make units with the actors; made(unit, answer) is called once for each.

        Returns the number of units that were assigned again, because their worker was lost or slow.
        """
        pool = self._pool
        assert pool is not None, "expected call or map"
        board = _Board(units)
        for actor in pool.actors:  # those of the stage before
            if actor.opening is None and actor.stage != stage:
                actor.opening = actor.handle.stage.remote()
        while board.left:
            pool.grow(min(len(board.left), len(board.todo) + sum(bool(one.units) for one in pool.actors)))
            for actor in pool.actors:
                if actor.opening is None and actor.stage == stage:
                    while len(actor.units) < AHEAD and (unit := board.assign(actor, pool.actors)) is not None:
                        ref = actor.handle.make.remote(content(unit))
                        actor.units[ref] = (unit, time.monotonic())
            pending = {one.opening: one for one in pool.actors if one.opening is not None}
            pending |= {ref: one for one in pool.actors for ref in one.units}
            for ref in self._ready(list(pending)):
                self._settle(ref, pending[ref], stage, board, made)
        for actor in [one for one in pool.actors if one.units]:
            pool.drop(actor)  # second copies that are no longer needed
        return board.again

    def _ready(self, pending: list[Any]) -> list[Any]:
        """Wait a second at most for one of the answers. Raises Stop if a signal comes."""
        try:
            return list(self._ray.wait(pending, timeout=1.0)[0]) if pending else []
        except SystemError as error:  # how ray passes on what a signal handler raises
            stop = error.__cause__ or error.__context__
            if isinstance(stop, Stop | KeyboardInterrupt):
                raise stop from None
            raise

    def _settle(
        self, ref: Any, actor: Actor, stage: str, board: _Board, made: Callable[[int, Any], None]
    ) -> None:
        """Use one answer of an actor."""
        pool = self._pool
        assert pool is not None, "expected call or map"
        try:
            value = _value(self._ray.get(ref))
        except self._ray.exceptions.RayError as error:
            board.back(pool.lost(actor, error), pool.actors)
            return
        if ref == actor.opening:
            pool.opened(actor, value)
            if value is None:
                pool.drop(actor)
            elif value != stage:
                actor.opening = actor.handle.stage.remote()
            return
        unit, since = actor.units.pop(ref)
        if board.done(unit, time.monotonic() - since):
            made(unit, value)


class _Board:
    """Which units are to be assigned, and which are not made yet."""

    def __init__(self, units: Sequence[int]) -> None:
        self.todo, self.left, self.again = deque(units), set(units), 0
        self._tries: Counter[int] = Counter()
        self._copies: set[int] = set()
        self._seconds, self._count = 0.0, 0

    def assign(self, actor: Actor, actors: Sequence[Actor]) -> int | None:
        """Return the next unit for an actor: a new one, or for an idle actor a copy of a very late one."""
        if self.todo:
            return self.todo.popleft()
        if actor.units or not self._count:
            return None
        now, mean = time.monotonic(), self._seconds / self._count
        for other in actors:
            for unit, since in reversed(other.units.values()):
                if unit in self.left and unit not in self._copies and now - since > SLOW * mean:
                    self._copies.add(unit)
                    self.again += 1
                    return unit
        return None

    def done(self, unit: int, seconds: float) -> bool:
        """Note that a unit is made; return whether this is its first copy."""
        self._seconds, self._count = self._seconds + seconds, self._count + 1
        first = unit in self.left
        self.left.discard(unit)
        return first

    def back(self, units: Sequence[int], actors: Sequence[Actor]) -> None:
        """Take back the units of a lost actor. Raises UserError if one of them ended several workers."""
        held = {unit for actor in actors for unit, _ in actor.units.values()}
        for unit in units:
            self._copies.discard(unit)
            if unit not in self.left or unit in held:
                continue
            self._tries[unit] += 1
            if self._tries[unit] >= MOST_TRIES:
                raise UserError(
                    f"{MOST_TRIES} workers ended with unit {unit} in hand, most likely because memory ran "
                    "out; give fewer --workers or more --actor-cpus, then run the same command again; what "
                    "is finished is kept."
                )
            self.again += 1
            self.todo.appendleft(unit)


def _value(answer: dict[str, Any]) -> Any:
    """The value of a worker's answer; its error as ours."""
    if "error" in answer:
        text = answer["error"].rstrip(".")
        raise UserError(f"node {answer['node']}: {text}; what is finished is kept.")
    if "bug" in answer:
        raise RuntimeError(f"node {answer['node']}: {answer['bug']}")
    return answer["value"]
