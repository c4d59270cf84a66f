"""Verify a column against its manifest, and mark the chunks that must be made again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cckt.cache_builder.base.errors import UserError, counted, quoted
from cckt.cache_builder.base.progress import Progress, Silent
from cckt.cache_builder.store.agreement import Agreement
from cckt.cache_builder.store.format.file_names import GROUP
from cckt.cache_builder.store.format.manifest import Manifest, is_ours, read_manifest
from cckt.cache_builder.store.format.spec import some_runs
from cckt.cache_builder.store.kinds import repair_command
from cckt.cache_builder.store.missing import command_for_missing
from cckt.cache_builder.store.places.files import open_files
from cckt.cache_builder.store.verification.check import Check, Problem

SAMPLE = 64
"""Rows that are made again."""

MINIMUM_COSINE = 0.999
"""Smallest cosine of a stored row to the same row made again that is no problem."""


@dataclass(frozen=True)
class VerifyReport:
    """What `verify_column` found."""

    name: str
    place: str
    manifest: Manifest | None
    """None if it cannot be trusted."""
    chunks: int
    """Chunks that were checked."""
    rows: int
    invalid: int
    """Invalid rows found."""
    problems: tuple[Problem, ...]
    agreement: Agreement | None
    """Agreement of stored rows with the same rows made again, if that was requested."""
    repaired: tuple[int, ...]
    """Chunks marked missing: the next run of the column's command makes them, and only them."""
    command: str
    """The command that makes the column."""
    step: str = ""
    """What to do next, as in "run `cckt cache verify DATA text --repair`"; "" if there is no problem."""

    @property
    def ok(self) -> bool:
        """Whether there is no problem."""
        return not self.problems

    def lines(self) -> list[str]:
        """Return the report as lines of text."""
        lines = [
            f"{self.place}: {counted(self.rows, 'row')} in {counted(self.chunks, 'chunk')}, "
            f"{self.invalid} invalid"
        ]
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
    sample: int = SAMPLE,
    seed: int = 0,
    minimum_cosine: float = MINIMUM_COSINE,
    repair: bool = False,
    recoverable: Mapping[int, str] | None = None,
    progress: Progress | None = None,
) -> VerifyReport:
    """Check every byte of a column, finished or not, in the memory of one chunk.

    index_digest, table_rows: of the index that it should belong to. recompute(rows (n,) ascending) -> (n,
    width) makes `sample` valid rows (drawn by `seed`) again; a cosine below `minimum_cosine` is a problem.
    repair: mark wrong chunks missing, so that the column's command makes them again and nothing else, and
    remove temporary files of killed writers. Foreign files are reported, never deleted. recoverable: row ->
    reason, of rows without a value that can have one now; their chunks count as wrong.

    Raises UserError if there is no column.
    """
    progress = progress or Silent()
    files = open_files(data, name)
    try:
        manifest = read_manifest(files)
    except UserError as error:
        found = Problem("manifest", str(error))
        command = repair_command(str(data), name)
        if is_ours(files.get(GROUP) or b""):
            step = f"run `{command} --overwrite`"
        else:
            step = f"move the folder {files.place} away and run `{command}`"
        return VerifyReport(name, files.place, None, 0, 0, 0, (found,), None, (), command, step)
    if manifest is None:
        raise UserError(
            f"There is no column {name} under {data}: expected {files.place}/{GROUP}, make it with "
            f"`{command_for_missing(data, name)}`."
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
        check.report(
            "invalid_count",
            f"{counted(check.invalid, 'row is', 'rows are')} invalid, the manifest counts {manifest.invalid}",
        )
    for row, why in (recoverable or {}).items():
        check.report(
            "recoverable",
            f"row {row} has no value, but can have one now: {why}",
            row // manifest.spec.chunk_rows,
        )
    agreed = None
    if recompute is not None and manifest.finished and not check.bad:
        agreed = check.recompute(recompute, sample, seed, minimum_cosine)
    repaired: tuple[int, ...] = ()
    unfinished = not manifest.finished
    if repair and manifest.finished:
        check.remove_temporary()
    if repair and (check.bad or check.bad_documents):
        repaired, unfinished = tuple(sorted(check.bad)), True
        check.mark_missing()
    elif repair and check.bad_group:
        check.rewrite_group()
    command = repair_command(str(data), name, manifest.spec.recipe)
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
        command,
        _next_step(check, str(data), name, command, repair=repair, unfinished=unfinished),
    )


def _next_step(check: Check, data: str, name: str, command: str, *, repair: bool, unfinished: bool) -> str:
    """What ends the gravest problem; `--repair` only for what it repairs, and once."""
    kinds = {problem.kind for problem in check.problems}
    verify = f"cckt cache verify {quoted(data)} {name}"
    if kinds & {"index", "rows"}:
        return f"run `{command} --overwrite`"
    if not repair and (check.bad or check.bad_documents or check.bad_group):
        return f"run `{verify} --repair`"
    if unfinished:
        return f"run `{command}`"
    if kinds & {"recompute", "invalid_count"}:
        return f"run `{command} --overwrite`"
    if "foreign" in kinds:
        return f"move the files that do not belong to it out of {check.files.place}"
    if "photo" in kinds:
        return f"make the photos readable (is their disk mounted?) and run `{verify}`"
    return f"run `{verify}`" if kinds else ""
