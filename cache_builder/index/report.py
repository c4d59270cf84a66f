"""What a build has to say."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cckt.cache_builder.index.tables import FOLDER

_REASONS = {
    "not_finite": "coordinates that are no finite numbers",
    "no_area": "width or height not above 0",
    "outside_image": "outside their photo",
    "novel": "novel concept (keep base)",
    "other": "other concept (keep base)",
}


@dataclass(frozen=True)
class IndexReport:
    """What an index holds, and what was left out of it and why.

    annotations = boxes + sum(dropped.values()). Reasons: "not_finite" (NaN or infinite coordinates),
    "no_area" (width or height not above 0), "outside_image" (nothing of it inside the photo), and under
    keep="base" "novel" and "other". clipped: boxes cut to their photo and kept. photos_missing: not on disk.
    unchanged: just this index already lay there.
    """

    folder: Path
    digest: str
    split: str
    keep: str
    images: int
    images_without_boxes: int
    annotations: int
    boxes: int
    crowd: int
    clipped: int
    photos_missing: int
    first_missing: str
    dropped: dict[str, int] = field(default_factory=dict)
    boxes_per_split: dict[str, int] = field(default_factory=dict)
    concepts_per_split: dict[str, int] = field(default_factory=dict)
    unchanged: bool = False

    def lines(self) -> list[str]:
        """The report for a person, a line a fact."""
        n_concepts = sum(self.concepts_per_split.values())
        concepts = ", ".join(f"{n} {split}" for split, n in self.concepts_per_split.items())
        boxes = ", ".join(f"{n} {split}" for split, n in self.boxes_per_split.items())
        lines = [
            f"{self.images} images ({self.images_without_boxes} without boxes)",
            f"{self.boxes} boxes of {self.annotations} annotations: {boxes}; {self.crowd} of them crowds",
            f"{n_concepts} concepts: {concepts} (split {self.split}, keep {self.keep})",
        ]
        lines += [f"{n} dropped: {_REASONS[reason]}" for reason, n in self.dropped.items() if n]
        if self.clipped:
            lines.append(f"{self.clipped} clipped to their photo")
        if self.photos_missing:
            lines.append(f"{self.photos_missing} photos are not on disk, {self.first_missing} the first")
        lines.append(f"{self.folder / FOLDER}, {self.digest}" + (" (as it was)" if self.unchanged else ""))
        return lines

    def to_json(self) -> dict[str, Any]:
        """Plain figures for `--json`."""
        return {**asdict(self), "folder": str(self.folder)}
