"""The report of an index build."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cckt.cache_builder.base.errors import counted, listed
from cckt.cache_builder.index.formats.repairs import KINDS
from cckt.cache_builder.index.photo_files.sizes import SizeFindings
from cckt.cache_builder.index.tables import FOLDER

_REASONS = {
    "not_finite": "non-finite coordinates",
    "no_area": "width or height not above 0",
    "outside_image": "outside their photo",
    "novel": "novel concept (keep base)",
    "other": "other concept (keep base)",
}


@dataclass(frozen=True)
class IndexReport:
    """Counts of an index: what it holds, and what was dropped and why.

    annotations = boxes + sum(dropped.values()).
    """

    folder: Path
    digest: str
    split: str
    keep: str
    images: int
    images_without_boxes: int
    annotations: int
    """In the file."""
    boxes: int
    crowd: int
    """Crowds among the boxes."""
    clipped: int
    """Boxes that were clipped to their photo and kept."""
    photos_missing: int
    """Photos that are not on disk."""
    first_missing: str
    dropped: dict[str, int] = field(default_factory=dict)
    """Reason -> boxes. "not_finite": NaN or infinite coordinates; "no_area": width or height not above 0;
    "outside_image": no part inside the photo; with keep="base" also "novel" and "other"."""
    boxes_per_split: dict[str, int] = field(default_factory=dict)
    concepts_per_split: dict[str, int] = field(default_factory=dict)
    zero_areas: int = 0
    """Boxes whose area was 0 in the file; they have width times height."""
    parents: list[str] = field(default_factory=list)
    """Categories without boxes that other categories name as their supercategory."""
    similar: list[tuple[str, str]] = field(default_factory=list)
    """Pairs of categories whose names differ only in case, spaces and `_`."""
    sizes: SizeFindings = field(default_factory=SizeFindings)
    """Recorded image sizes compared with the files."""
    repairs: dict[str, int] = field(default_factory=dict)
    """Kind of `formats.repairs.KINDS` -> repairs that --lenient made."""
    repairs_file: str = ""
    """File of the index that lists them; "" for none."""
    shares: int = 0
    """Boxes whose values are all at most 1, among others in pixels."""
    findable: int = 0
    """Missing photos that --lenient would find by their base name."""
    notes: list[str] = field(default_factory=list)
    """How the format was read."""
    unchanged: bool = False
    """The same index was there already."""

    def lines(self) -> list[str]:
        """Return the report as text, one fact per line."""
        n_concepts = counted(sum(self.concepts_per_split.values()), "concept")
        concepts = ", ".join(f"{n} {split}" for split, n in self.concepts_per_split.items())
        boxes = ", ".join(f"{n} {split}" for split, n in self.boxes_per_split.items())
        lines = [
            f"{counted(self.images, 'image')} ({self.images_without_boxes} without boxes)",
            f"{counted(self.boxes, 'box', 'boxes')} of {counted(self.annotations, 'annotation')}: {boxes}; "
            f"{counted(self.crowd, 'crowd')} among them",
            f"{n_concepts}: {concepts} (split {self.split}, keep {self.keep})",
        ]
        lines += [f"{n} dropped: {_REASONS[reason]}" for reason, n in self.dropped.items() if n]
        if self.clipped:
            lines.append(f"{self.clipped} clipped to their photo")
        if self.photos_missing:
            missing = counted(self.photos_missing, "photo is", "photos are")
            lines.append(f"{missing} not on disk, the first is {self.first_missing}")
        if self.findable:
            lines.append(f"--lenient finds {self.findable} of the missing photos by their base name")
        lines += self._findings()
        lines.append(f"{self.folder / FOLDER}, {self.digest}" + (" (unchanged)" if self.unchanged else ""))
        return lines

    def _findings(self) -> list[str]:
        """Return a line for each finding that deserves a look."""
        lines, sizes = [], self.sizes
        lines += self.notes
        lines += [counted(count, *KINDS[kind][:2]) + KINDS[kind][2] for kind, count in self.repairs.items()]
        if self.repairs_file:
            lines.append(f"{self.folder / FOLDER / self.repairs_file} lists these repairs")
        if self.zero_areas:
            zero = counted(self.zero_areas, "box has", "boxes have")
            lines.append(f"{zero} area 0 in the file: width times height is taken")
        if self.shares:
            shares = counted(self.shares, "box has", "boxes have")
            lines.append(
                f"{shares} only values of at most 1, which look like shares of the photo and are read as "
                "pixels"
            )
        if self.parents:
            names = listed([repr(name) for name in self.parents])
            one, several = "category has no box and is", "categories have no box and are"
            lines.append(
                f"{counted(len(self.parents), one, several)} only the parent of others ({names}): --lenient "
                "leaves out such categories"
            )
        if self.similar:
            same = counted(len(self.similar), "category has", "categories have")
            lines.append(
                f"{same} the name of another one up to case and '_' (the first pair is "
                f"{self.similar[0][0]!r} and {self.similar[0][1]!r})"
            )
        for count, reading in (
            (sizes.applied, "of the photo as turned (--exif apply)"),
            (sizes.ignored, "of the stored pixels (--exif ignore)"),
        ):
            if count:
                photos = counted(count, "photo has", "photos have")
                lines.append(f"{photos} an EXIF orientation: their boxes are {reading}")
        if sizes.replaced:
            replaced = counted(sizes.replaced, "recorded size")
            lines.append(f"{replaced} replaced by those of the chosen --exif")
        if sizes.rescaled:
            resized = counted(sizes.rescaled, "photo was", "photos were")
            lines.append(f"{resized} resized: their boxes are scaled to the file")
        if sizes.other_size:
            other = counted(sizes.other_size, "photo has", "photos have")
            lines.append(
                f"{other} another size than recorded and cannot be used, the first is {sizes.first_other}"
            )
        return lines

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {**asdict(self), "folder": str(self.folder)}
