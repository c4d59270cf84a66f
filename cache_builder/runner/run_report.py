"""What a run did to a column."""

from __future__ import annotations

from dataclasses import dataclass, field

from cckt.cache_builder.store import Manifest


@dataclass
class RunReport:
    """Counts and times of one column in one run of this process."""

    made: int = 0
    """Chunks written."""
    skipped: int = 0
    """Chunks that were finished before the run: of the whole column, or of an exact part."""
    again: int = 0
    """Units that this run made after another maker had begun them: that maker died or was very slow."""
    rows: int = 0
    """Rows written."""
    copied: int = 0
    """Rows written that were copied from another column; see `Item.value`."""
    invalid: int = 0
    """Rows written without a value."""
    notes: dict[int, str] = field(default_factory=dict)
    """Row -> reason, for the rows written."""
    seconds: float = 0.0
    """Of the whole run, with its other columns."""
    read_wait: float = 0.0
    """Seconds of the whole run in which the mapper waited for readers. Large where reading is slower."""
    map_seconds: float = 0.0
    """Seconds in the mapper. Near `seconds` where the device is always busy."""
    write_seconds: float = 0.0
    """Seconds in the writer thread."""
    manifest: Manifest | None = None
    """The finished manifest, None while chunks are missing that an exact part leaves out."""
