"""The engine of this process: it claims units as it goes, or makes the units of an exact part."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack

from cckt.cache_builder.base.errors import counted
from cckt.cache_builder.runner.parts import ExactPart
from cckt.cache_builder.runner.pipeline import UnitSource, make_units
from cckt.cache_builder.runner.plan import Plan
from cckt.cache_builder.runner.run_report import RunReport
from cckt.cache_builder.runner.signals import Interrupted, Stop, stoppable
from cckt.cache_builder.store import Claims

REFRESH_SECONDS = 5.0
"""How often the files are read again while there are units to claim."""

SLOW = 2.0
"""A claimed unit is made a second time after this many times as long as a unit takes here."""


class LocalEngine:
    """Makes units in this process."""

    begins, makes = True, True

    def run(self, plan: Plan) -> list[RunReport]:
        """See `Engine.run`. Raises Interrupted on Ctrl-C and SIGTERM."""
        reports = [RunReport() for _ in plan.targets]
        missing = plan.missing()
        exact = isinstance(plan.part, ExactPart)
        share = plan.units.share(plan.part) if exact else range(plan.units.count)
        todo = plan.unmade(missing, share)
        for number, report in enumerate(reports):
            report.skipped = sum(len(plan.units.chunks(unit)[number]) for unit in share)
            report.skipped -= sum(len(plan.lacking(unit, missing)[number]) for unit in todo)
        plan.progress.start(plan.label, sum(plan.rows(unit, missing) for unit in todo), plan.unit_name)
        try:
            with stoppable(), ExitStack() as stack:
                if exact:
                    source: UnitSource = ExactUnits(plan, missing, todo)
                    make_units(plan, source, reports)
                elif todo:
                    # A finished column has no ledger; the claims are in the first one that has.
                    number = next(at for at, lost in enumerate(missing) if lost)
                    writer = plan.targets[number].writer
                    claims = stack.enter_context(writer.claims(plan.units.count))
                    claimed = ClaimedUnits(plan, claims, missing)
                    make_units(plan, claimed, reports)
                    for report in reports:
                        report.again = claimed.again
                for target, report in zip(plan.targets, reports, strict=True):
                    report.manifest = target.writer.try_finish()
        except (Stop, KeyboardInterrupt) as stop:
            raise interrupted(stop, plan, reports) from stop
        finally:
            plan.progress.finish()
        return reports


def interrupted(stop: BaseException, plan: Plan | None, reports: Sequence[RunReport]) -> Interrupted:
    """Return the error for a run that a signal has stopped. plan: None for work that makes no column."""
    number = stop.number if isinstance(stop, Stop) else 2
    name = "Ctrl-C" if number == 2 else "SIGTERM"
    if plan is None:
        return Interrupted(f"stopped by {name}; run the same command again.", number)
    made = ", ".join(
        f"{counted(report.made, 'chunk')} of {target.writer.spec.name}"
        for target, report in zip(plan.targets, reports, strict=True)
    )
    return Interrupted(
        f"stopped by {name} after making {made}; every chunk on disk is complete, run the same command again "
        "to resume.",
        number,
    )


class ExactUnits:
    """A `UnitSource` of exactly the missing units of a part, without claims."""

    def __init__(self, plan: Plan, missing: Sequence[set[int]], todo: Sequence[int]) -> None:
        self._plan, self._missing = plan, missing
        self._todo = list(todo)

    def next(self) -> int | None:
        """See `UnitSource.next`."""
        return self._todo.pop(0) if self._todo else None

    def take(self, unit: int) -> bool:
        """See `UnitSource.take`."""
        if unit not in self._todo:
            return False
        self._todo.remove(unit)
        return True

    def lacking(self, unit: int) -> list[list[int]]:
        """See `UnitSource.lacking`."""
        return self._plan.lacking(unit, self._missing)

    def done(self, unit: int) -> None:
        """See `UnitSource.done`."""

    def wait(self) -> bool:
        """See `UnitSource.wait`."""
        return False


class ClaimedUnits:
    """A `UnitSource` of units that this process claims: its own share first, then those of slower makers.

    When no unit is left to claim, it waits for the other makers, and takes over the units of those that died
    (see `Claims`) and, as second copies, those that take much longer than a unit takes here. If a unit is
    made twice, the first copy stays; the bytes are the same.
    """

    def __init__(self, plan: Plan, claims: Claims, missing: Sequence[set[int]]) -> None:
        self.again = 0
        self._plan, self._claims = plan, claims
        self._missing = list(missing)
        self._open = set(plan.unmade(missing))
        self._free = set(self._open)
        self._order = [unit for unit in plan.units.share(plan.part) if unit in self._open]
        self._taken: set[int] = set()
        self._done = 0
        self._overdue: list[int] = []
        self._began = self._looked = time.monotonic()
        self._idle = 0.0
        self._refresh()

    def next(self) -> int | None:
        """See `UnitSource.next`."""
        if self._free and time.monotonic() - self._looked > REFRESH_SECONDS:
            self._refresh()
        while self._overdue:
            unit = self._overdue.pop()
            if self._claim(unit):
                return unit
        while self._free:
            unit = self._candidate()
            if self._claim(unit):
                return unit
        return None

    def take(self, unit: int) -> bool:
        """See `UnitSource.take`."""
        return unit in self._free and self._claim(unit)

    def lacking(self, unit: int) -> list[list[int]]:
        """See `UnitSource.lacking`."""
        return self._plan.lacking(unit, self._missing)

    def done(self, unit: int) -> None:
        """See `UnitSource.done`."""
        self._done += 1
        self._claims.release(unit)

    def wait(self) -> bool:
        """See `UnitSource.wait`."""
        began = time.monotonic()
        pace = (began - self._began - self._idle) / self._done if self._done else None
        try:
            while True:
                self._refresh()
                if not self._open:
                    return False
                if self._free:
                    return True
                self._overdue = self._late(pace)
                if self._overdue:
                    return True
                time.sleep(min(1.0, max(0.05, (pace or 1.0) / 4)))
        finally:
            self._idle += time.monotonic() - began

    def _candidate(self) -> int:
        """The next unit of the own share, then one from the end of the others, which they reach last."""
        while self._order:
            unit = self._order.pop(0)
            if unit in self._free:
                return unit
        left = sorted(self._free)
        return left[-1 - self._plan.part[0] % len(left)]

    def _claim(self, unit: int) -> bool:
        """Claim a unit unless it is claimed, or made since the files were read."""
        self._free.discard(unit)
        if not self._claims.take(unit):
            return False
        pairs = zip(self._plan.targets, self.lacking(unit), strict=True)
        if any(target.writer.stands(chunk) for target, chunks in pairs for chunk in chunks):
            self._refresh()
            if unit not in self._open:
                self._claims.release(unit)
                return False
        self.again += unit in self._claims.others
        self._taken.add(unit)
        return True

    def _late(self, pace: float | None) -> list[int]:
        """The units of dead makers and of very slow ones; those that were claimed last come last."""
        now, late = time.monotonic(), []
        for claim in sorted(self._claims.others.values(), key=lambda claim: claim.seen):
            patience = self._claims.lease if pace is None else SLOW * pace
            if claim.unit in self._open and (now - claim.seen > patience or self._claims.dead(claim)):
                late.append(claim.unit)
        return late

    def _refresh(self) -> None:
        """Read what is missing and what is claimed, and count what others have made."""
        before = self._missing
        self._missing, self._looked = self._plan.missing(), time.monotonic()
        still = set(self._plan.unmade(self._missing, sorted(self._open)))
        gone = self._open - still - self._taken
        made = sum(self._plan.rows(unit, before) for unit in gone)
        if made:
            self._plan.progress.advance(made)
        self._open = still
        claimed = self._claims.look()
        self._free = still - self._taken - set(claimed)
        late = [unit for unit, claim in claimed.items() if unit in still and self._claims.ended(claim)]
        self._free |= set(late)
