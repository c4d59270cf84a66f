"""Whether a column still is what its manifest says, and what to make again where it is not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.progress import Progress, Silent
from cckt.cache_builder.store.agreement import Agreement
from cckt.cache_builder.store.check import Check, Problem
from cckt.cache_builder.store.command import mending_command
from cckt.cache_builder.store.manifest import GROUP, Manifest, read_manifest
from cckt.cache_builder.store.places.files import open_files
from cckt.cache_builder.store.spec import some_runs


@dataclass(frozen=True)
class VerifyReport:
    """What `verify_column` found."""

    name: str
    place: str
    manifest: Manifest | None
    """None where it cannot be trusted."""
    chunks: int
    """Chunk numbers looked at."""
    rows: int
    invalid: int
    """Invalid rows found."""
    problems: tuple[Problem, ...]
    agreement: Agreement | None
    """Stored rows against recomputed ones, where asked for."""
    repaired: tuple[int, ...]
    """Chunks marked missing: the next run of the column's command makes them, and only them."""
    command: str
    """The command that makes the column."""

    @property
    def ok(self) -> bool:
        """Nothing is wrong."""
        return not self.problems

    def lines(self) -> list[str]:
        """For a person."""
        lines = [f"{self.place}: {self.rows} rows in {self.chunks} chunks, {self.invalid} invalid"]
        lines += [f"{problem.kind}: {problem.message}" for problem in self.problems]
        if self.agreement is not None:
            lines.append(f"recomputed {self.agreement}")
        if self.repaired:
            lines.append(
                f"chunks {some_runs(self.repaired)} are marked missing: run `{self.command}` to make them"
            )
        return lines if self.problems else [*lines, "everything is as it was made"]


def verify_column(
    data: Path | str,
    name: str,
    *,
    index_digest: str | None = None,
    table_rows: int | None = None,
    recompute: Callable[[NDArray[np.int64]], NDArray[Any]] | None = None,
    sample: int = 64,
    seed: int = 0,
    minimum_cosine: float = 0.999,
    repair: bool = False,
    mended: Mapping[int, str] | None = None,
    progress: Progress | None = None,
) -> VerifyReport:
    """Check every byte of a column, finished or not, in the memory of one chunk.

    index_digest, table_rows: of the index it should belong to. recompute(rows (n,) ascending) -> (n, width)
    makes `sample` valid rows (drawn by `seed`) again with the named teacher; a cosine below `minimum_cosine`
    is a problem.
    repair: chunks found wrong are marked missing, so that the column's own command makes them again and
    nothing else. Foreign files are told, never deleted.
    mended: row -> why, of rows without a value that could have one now; their chunks count as wrong.

    Raises UserError where there is no column at all.
    """
    progress = progress or Silent()
    files = open_files(data, name)
    try:
        manifest = read_manifest(files)
    except UserError as error:
        found = Problem("manifest", str(error))
        return VerifyReport(
            name, files.place, None, 0, 0, 0, (found,), None, (), mending_command(str(data), name)
        )
    if manifest is None:
        raise UserError(
            f"There is no column {name} under {data}: expected {files.place}/{GROUP}, make it with "
            f"`{mending_command(str(data), name)}`."
        )
    check = Check(files, manifest)
    check.alignment(index_digest, table_rows)
    check.names()
    progress.start(f"verify {name}", manifest.spec.rows, "rows")
    for chunk in range(manifest.spec.n_chunks):
        check.chunk(chunk)
        lo, hi = manifest.spec.bounds(chunk)
        progress.advance(hi - lo)
    progress.finish()
    if manifest.finished and check.invalid != manifest.invalid and not check.bad:
        check.say(
            "invalid_count", f"{check.invalid} rows are invalid, the manifest counts {manifest.invalid}"
        )
    for row, why in (mended or {}).items():
        check.say(
            "mended",
            f"row {row} has no value, but could have one now: {why}",
            row // manifest.spec.chunk_rows,
        )
    agreed = None
    if recompute is not None and manifest.finished and not check.bad:
        agreed = check.recompute(recompute, sample, seed, minimum_cosine)
    repaired: tuple[int, ...] = ()
    if repair and (check.bad or check.bad_documents):
        repaired = tuple(sorted(check.bad))
        check.mark_missing()
    return VerifyReport(
        name,
        files.place,
        manifest,
        manifest.spec.n_chunks,
        manifest.spec.rows,
        check.invalid,
        tuple(check.problems),
        agreed,
        repaired,
        mending_command(str(data), name, manifest.spec.recipe),
    )
