"""What a cache verb did, in figures and in lines for a person."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.progress import Progress
from cckt.cache_builder.photos import unreadable_warning
from cckt.cache_builder.runner import RunReport
from cckt.cache_builder.store import Agreement, ColumnWriter, Manifest
from cckt.cache_builder.store.block import NOT_FINITE

SHOWN_NOTES = 20

ENOUGH = 0.999
"""Median cosine to the exact rows under which a fast column is warned of."""


@dataclass(frozen=True)
class CacheReport:
    """The outcome of one `cckt cache` verb.

    rows: of the column. invalid: rows without a value; of the whole column once it is finished, before that
    of the chunks made now. skipped_chunks: found finished; made_chunks: made now. seconds: of this process.
    notes: lines about what was left out and why. manifest: None while other parts are still at work.
    read_wait: seconds in which the teacher waited for photos; map_seconds: seconds in the teacher.
    agreement: of a fast column, how near a sample of its rows is to the exact ones.
    """

    name: str
    rows: int
    invalid: int
    skipped_chunks: int
    made_chunks: int
    seconds: float
    notes: list[str] = field(default_factory=list)
    manifest: Manifest | None = None
    read_wait: float = 0.0
    map_seconds: float = 0.0
    agreement: Agreement | None = None

    def lines(self) -> list[str]:
        """The report for a person, a line a fact."""
        made = (
            f"{self.made_chunks} chunks made, {self.skipped_chunks} found"
            if self.skipped_chunks
            else f"{self.made_chunks} chunks made"
        )
        lines = [
            f"column {self.name}: {self.rows} rows, {self.invalid} without a value; {made} in "
            f"{self.seconds:.1f} s"
        ]
        lines += self.notes[:SHOWN_NOTES]
        if len(self.notes) > SHOWN_NOTES:
            lines.append(f"and {len(self.notes) - SHOWN_NOTES} more such lines")
        if self.agreement is not None:
            lines.append(f"fast against exact, {self.agreement}")
        if self.manifest is None:
            lines.append("not finished: other parts have chunks to make")
        else:
            lines.append(self.manifest.digest)
        return lines

    def to_json(self) -> dict[str, Any]:
        """Plain figures for `--json`."""
        return {
            "name": self.name,
            "rows": self.rows,
            "invalid": self.invalid,
            "skipped_chunks": self.skipped_chunks,
            "made_chunks": self.made_chunks,
            "seconds": self.seconds,
            "read_wait": self.read_wait,
            "map_seconds": self.map_seconds,
            "notes": self.notes,
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
    """Sum a run up and say its notes: `notes` first, then the reasons of invalid rows.

    expected: reasons that are nobody's fault, told in one line. strict: UserError where the column was
    finished earlier, without --strict, over photos that were bad. photos: that the column needs; where many
    of them cannot be read, a warning with their share comes first.
    """
    row_notes = run.manifest.notes if run.manifest else run.notes
    counts = Counter(row_notes[row] for row in sorted(row_notes))
    faults = [reason for reason in counts if reason not in expected]
    if strict and faults:
        raise UserError(
            f"column {writer.spec.name} was made before without --strict and lacks rows of {len(faults)} bad "
            f"photos ({faults[0]}); mend them, mark their rows with cckt cache verify --repair and run the "
            "same command again."
        )
    warning = unreadable_warning(len(set(faults) - {NOT_FINITE}), photos) if photos else None
    if warning:
        notes = [warning, *notes]
    lines = [*notes, *(f"{counts[reason]} rows: {reason}" for reason in expected if counts[reason]), *faults]
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
        agreement=agreement,
    )
