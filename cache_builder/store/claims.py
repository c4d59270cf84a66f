"""Claims on units of work: which maker of an unfinished column makes which chunks.

A claim is a file `ledger/claim-UNITS-UNIT-GENERATION` that only one maker can create: by a hard link in a
folder, by a conditional put (If-None-Match) in an object store. Where a store has no conditional put, the
last writer wins: every maker reads its claim again and drops it if it finds another maker's. Two makers may
then hold one unit for a moment, which costs time but changes no byte.

Claims have a lease. Four times in each lease a maker gives a sign of life, in `ledger/maker-ID`. A claim is
dead if its maker gave no new sign during a lease; another maker takes the unit over with the next generation.
Only the reader's own clock counts, so clocks of machines need not agree. A maker on the same machine whose
process has ended is dead at once.
"""

from __future__ import annotations

import json
import os
import re
import socket
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Self

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.untrusted.text import parse_json
from cckt.cache_builder.store.format.file_names import CLAIM, LEDGER, MAKER
from cckt.cache_builder.store.places.contract import ChunkFiles

LEASE = 60.0
"""Seconds without a sign of life after which a claim is dead."""

_NAME = re.compile(rf"{CLAIM}(\d+)-(\d+)-(\d+)")


@dataclass(frozen=True)
class Claim:
    """A claim of another maker: its unit, its generation, who holds it, and since when this process knows."""

    unit: int
    generation: int
    maker: str
    home: tuple[str, int, int]
    """Machine, process id and start of the process; ("", 0, 0) if the claim is torn."""
    seen: float
    """`time.monotonic()` of the first sight."""


class Claims:
    """The claims of this process on the units of one column; a context that gives signs of life.

    units: the number of units that the work is divided into. Makers that divide it differently do not see
    each other's claims. Leaving the context gives all claims up.
    """

    def __init__(self, files: ChunkFiles, units: int, lease: float | None = None) -> None:
        self._files, self._units = files, units
        self.lease = LEASE if lease is None else lease
        self.others: dict[int, Claim] = {}
        """Unit -> the newest claim of another maker, as of the last `look`."""
        self._maker = uuid.uuid4().hex
        self._document = json.dumps({"maker": self._maker, "home": _home()}).encode()
        self._held: dict[int, str] = {}
        self._known: dict[str, Claim] = {}
        self._signs: dict[str, tuple[bytes | None, float]] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._live, name="cckt-claims", daemon=True)

    def __enter__(self) -> Self:
        _active_makers().add(self._maker)
        # "new" makes the folder, which is gone if another maker has just finished the column.
        self._files.put(MAKER + self._maker, b"0", new=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()
        _active_makers().discard(self._maker)
        with suppress(UserError):  # the fault that ends the run is reported, not this one
            self._files.remove([*self._held.values(), MAKER + self._maker])

    def take(self, unit: int) -> bool:
        """Claim a unit, or take over one whose claim `look` has shown; return whether it is ours now."""
        before = self.others.get(unit)
        name = f"{CLAIM}{self._units}-{unit}-{0 if before is None else before.generation + 1}"
        if not self._files.put(name, self._document, new=True) or self._files.get(name) != self._document:
            return False
        self._held[unit] = name
        return True

    def release(self, unit: int) -> None:
        """Give a claim up, because the unit is made or is not to be made."""
        name = self._held.pop(unit, None)
        if name is not None:
            self._files.remove([name])

    def look(self) -> dict[int, Claim]:
        """Read the claims of other makers; return them by unit."""
        found: dict[int, Claim] = {}
        for name in self._files.sizes(LEDGER):
            match = _NAME.fullmatch(name)
            if match is None or int(match[1]) != self._units or name in self._held.values():
                continue
            claim = self._known.get(name) or self._read(name, int(match[2]), int(match[3]))
            if claim is None or claim.unit in self._held:
                continue
            older = found.get(claim.unit)
            if older is None or older.generation < claim.generation:
                found[claim.unit] = claim
        self.others = found
        return found

    def ended(self, claim: Claim) -> bool:
        """Return whether the maker of a claim is known to have ended: a process of this machine."""
        machine, process, started = claim.home
        if machine != _home()[0]:
            return False
        if process == os.getpid():
            return claim.maker not in _active_makers()
        return _start_of(process) != started

    def dead(self, claim: Claim) -> bool:
        """Return whether the maker of a claim has ended, or gave no sign of life during a lease."""
        if self.ended(claim):
            return True
        sign, now = self._files.get(MAKER + claim.maker), time.monotonic()
        known = self._signs.get(claim.maker)
        if known is None or known[0] != sign:
            self._signs[claim.maker] = known = (sign, now)
        return now - known[1] > self.lease

    def _read(self, name: str, unit: int, generation: int) -> Claim | None:
        content = self._files.get(name)
        if content is None:  # given up since the names were listed
            return None
        fields: dict[str, Any] = {}
        with suppress(ValueError):
            found = parse_json(content)
            fields = found if isinstance(found, dict) else {}
        maker, home = fields.get("maker"), fields.get("home")
        whole = isinstance(maker, str) and re.fullmatch(r"[0-9a-f]{32}", maker) and _is_home(home)
        claim = Claim(
            unit,
            generation,
            maker if whole and isinstance(maker, str) else "0" * 32,
            (home[0], home[1], home[2]) if whole and home else ("", 0, 0),
            time.monotonic(),
        )
        if whole:
            self._known[name] = claim
        return claim

    def _live(self) -> None:
        """Give signs of life until the context ends. A sign that cannot be written is tried again later."""
        count = 0
        while not self._ended.wait(self.lease / 4):
            count += 1
            with suppress(UserError):
                self._files.put(MAKER + self._maker, str(count).encode())


def _is_home(home: object) -> bool:
    return (
        isinstance(home, list)
        and len(home) == 3
        and isinstance(home[0], str)
        and isinstance(home[1], int)
        and isinstance(home[2], int)
    )


def _home() -> tuple[str, int, int]:
    """Machine (with its boot and process namespace), process id and start of this process."""
    return _machine(), os.getpid(), _start_of(os.getpid())


@cache
def _machine() -> str:
    words = [socket.gethostname()]
    with suppress(OSError):  # only Linux has these files
        words.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        words.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(words)


def _start_of(process: int) -> int:
    """The start of a process in clock ticks since boot; 0 if the system does not say, -1 if it has ended."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return -1 if fields[0] == "Z" else int(fields[19])
    except (OSError, IndexError, ValueError):
        pass
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return -1
    except OSError:
        return 0
    return 0


@cache
def _active_makers() -> set[str]:
    """The makers of this process whose runs have not ended."""
    return set()
