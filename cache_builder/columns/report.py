"""The outcome of a `cckt cache` verb, as figures and as lines of text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from cckt.cache_builder.base.errors import UserError, counted, quoted
from cckt.cache_builder.base.progress import Progress
from cckt.cache_builder.photos import unreadable_warning
from cckt.cache_builder.runner import RunReport
from cckt.cache_builder.store import Agreement, ColumnWriter, Manifest
from cckt.cache_builder.store.format.block import NOT_FINITE

MOST_NOTES = 20
"""Notes that are shown."""

ENOUGH = 0.999
"""Median cosine to the exact rows below which a fast column gets a warning."""


@dataclass(frozen=True)
class CacheReport:
    """The outcome of one `cckt cache` verb."""

    name: str
    rows: int
    """Rows of the column."""
    invalid: int
    """Rows without a value: of the whole column if it is finished, otherwise of the chunks made now."""
    skipped_chunks: int
    """Chunks that were made before."""
    made_chunks: int
    """Chunks made now."""
    seconds: float
    """Duration in this process."""
    notes: list[str] = field(default_factory=list)
    """What was left out and why, in lines."""
    manifest: Manifest | None = None
    """None while other parts have chunks to make."""
    read_wait: float = 0.0
    """Seconds in which the teacher waited for photos."""
    map_seconds: float = 0.0
    """Seconds in the teacher."""
    copied_rows: int = 0
    """Rows that were copied from an older column, in the chunks made now."""
    made_rows: int = 0
    """Rows with a value that were made now."""
    again: int = 0
    """Units of chunks that were begun again, because the maker that had them died or was very slow."""
    agreement: Agreement | None = None
    """Of a fast column: agreement of a sample of its rows with the exact ones."""
    begun: bool = True
    """False for an optional column that was left out; `notes` say why."""

    def lines(self) -> list[str]:
        """Return the report as lines of text, one for each fact."""
        if not self.begun:
            return [f"column {self.name}: not made", *self.notes]
        made = (
            f"{counted(self.made_chunks, 'chunk')} made, {self.skipped_chunks} found"
            if self.skipped_chunks
            else f"{counted(self.made_chunks, 'chunk')} made"
        )
        lines = [
            f"column {self.name}: {counted(self.rows, 'row')}, {self.invalid} without a value; {made} in "
            f"{self.seconds:.1f} s"
        ]
        if self.copied_rows:
            lines.append(
                f"{counted(self.copied_rows, 'row')} copied from the older column, {self.made_rows} made"
            )
        if self.again:
            lines.append(f"{counted(self.again, 'unit')} begun again: the maker died or was very slow")
        lines += self.notes[:MOST_NOTES]
        if len(self.notes) > MOST_NOTES:
            lines.append(f"and {len(self.notes) - MOST_NOTES} more such lines")
        if self.agreement is not None:
            lines.append(f"fast against exact, {self.agreement}")
        if self.manifest is None:
            lines.append("not finished: other parts have chunks to make")
        else:
            lines.append(self.manifest.digest)
        return lines

    def to_json(self) -> dict[str, Any]:
        """Return the figures for `--json`."""
        return {
            "name": self.name,
            "rows": self.rows,
            "invalid": self.invalid,
            "skipped_chunks": self.skipped_chunks,
            "made_chunks": self.made_chunks,
            "seconds": self.seconds,
            "again": self.again,
            "read_wait": self.read_wait,
            "map_seconds": self.map_seconds,
            "notes": self.notes,
            "copied_rows": self.copied_rows,
            "made_rows": self.made_rows,
            "agreement": asdict(self.agreement) if self.agreement else None,
            "finished": self.manifest is not None,
            "digest": self.manifest.digest if self.manifest else None,
        }


def report_of(
    writer: ColumnWriter,
    run: RunReport,
    progress: Progress,
    notes: Sequence[str] = (),
    *,
    strict: bool = False,
    expected: Sequence[str] = (),
    agreement: Agreement | None = None,
    photos: int | None = None,
) -> CacheReport:
    """Return the report of a run, and send its notes to `progress`: `notes`, then reasons of invalid rows.

    expected: reasons that are no fault of a photo, reported in one line each. strict: raise UserError if the
    column was finished earlier, without --strict, with rows of bad photos. photos: number of photos that the
    column needs; if many of them cannot be read, a warning with their share comes first.
    """
    row_notes = run.manifest.notes if run.manifest else run.notes
    counts = Counter(row_notes[row] for row in sorted(row_notes))
    faults = [reason for reason in counts if reason not in expected]
    if strict and faults:
        raise UserError(
            f"column {writer.spec.name} was made before without --strict and lacks rows of {len(faults)} bad "
            f"photos ({faults[0]}); repair the photos, mark their rows with cckt cache verify "
            f"{quoted(writer.data)} {writer.spec.name} --repair and run the same command again."
        )
    warning = unreadable_warning(len(set(faults) - {NOT_FINITE}), photos) if photos else None
    if warning:
        notes = [warning, *notes]
    lines = [
        *notes,
        *(f"{counted(counts[reason], 'row')}: {reason}" for reason in expected if counts[reason]),
        *faults,
    ]
    if agreement is not None and agreement.median < ENOUGH:
        lines.append(
            f"column {writer.spec.name} is far from the exact one: median cosine {agreement.median:.4f}, "
            f"expected at least {ENOUGH}; make it again without --fast, with --overwrite"
        )
    for line in lines:
        progress.note(line)
    return CacheReport(
        name=writer.spec.name,
        rows=writer.spec.rows,
        invalid=run.manifest.invalid if run.manifest else run.invalid,
        skipped_chunks=run.skipped,
        made_chunks=run.made,
        seconds=run.seconds,
        notes=lines,
        manifest=run.manifest,
        read_wait=run.read_wait,
        map_seconds=run.map_seconds,
        copied_rows=run.copied,
        made_rows=run.rows - run.invalid - run.copied,
        again=run.again,
        agreement=agreement,
    )
