"""The card next to a graph: a JSON file that says what the graph expects, returns and leaves to its user."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cckt.cache_builder.base.atomic_files import is_stream
from cckt.cache_builder.base.digests import file_digest
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.ownership import json_object, require_ours_or_absent
from cckt.cache_builder.vocabulary import Vocabulary
from cckt.detector.inference.predict import Predictor


@dataclass(frozen=True)
class GraphReport:
    """What was written, and its largest differences from torch on random images.

    size: (height, width) of its images in pixels; None: any size from `least` px per side, in multiples of
    `multiple` px. The differences of fp16 and int8 graphs are given, not limited; `mean` is over all values.
    """

    path: Path
    format: str
    size: tuple[int, int] | None
    least: int
    multiple: int
    concepts: int
    present: tuple[str, ...]
    precision: str
    gather: bool
    boxes_difference: float
    scores_difference: float
    mean_boxes_difference: float
    mean_scores_difference: float

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**asdict(self), "path": str(self.path)}


def card_path(graph: Path) -> Path:
    """Return the path of the JSON file about a graph: its full name and .json, so that each has its own."""
    return graph.with_name(f"{graph.name}.json")


def require_own_export(out: Path, format: str) -> None:
    """Raise UserError unless a graph and its card can be written: absent, or an export of this format."""
    if out.is_dir() or out.suffix == ".json" or (out.exists() and is_stream(out)):
        raise UserError(
            f"--out {out}: expected a file such as detector.onnx or detector.pt2; name such a file "
            f"({card_path(out).name} is written next to it)."
        )
    made = f"an export of cckt export with --format {format}"
    require_ours_or_absent(out, lambda path: _is_export(path, format), made)
    require_ours_or_absent(
        card_path(out), lambda path: json_object(path).get("cckt") == "export", "about such an export"
    )


def _is_export(graph: Path, format: str) -> bool:
    """Return whether the card of a graph describes exactly this file and format.

    Cards of earlier versions, NAME.json, hold no digest; they name the file.
    """
    card = json_object(card_path(graph))
    if card.get("cckt") == "export":
        report = card.get("report")
        same = isinstance(report, dict) and report.get("format") == format
        return same and card.get("digest") == file_digest(graph)
    report = json_object(graph.with_suffix(".json")).get("report")
    if not isinstance(report, dict):
        return False
    return report.get("format") == format and Path(str(report.get("path"))).name == graph.name


def card_of(detector: Predictor, words: Vocabulary, report: GraphReport) -> dict[str, Any]:
    """Return what the card says about a graph."""
    data, inference = (
        detector.model.config.data,
        detector.model.config.inference,
    )
    height, width = report.size or ("height", "width")
    sides = f"at least {report.least} px on either side; " if report.size is None else ""
    if report.multiple > 1:
        sides += f"sides in multiples of {report.multiple} px; "
    return {
        "input": f"images: float32 (batch, 3, {height}, {width}), RGB in [0, 1]; {sides}it was trained for "
        f"photos with a short side of {data.eval_short_side} px and a long one of at most {data.max_side}",
        "outputs": "boxes: (batch, queries, 4) x0 y0 x1 y1 in fractions; scores: (batch, queries, concepts)",
        "left_to_you": {
            "nms": inference.nms,
            "top": inference.top,
            "priors": "not applied, whatever inference.prior_weight of the run is: the graph has no teacher",
            "precision": f"{report.precision}; scores of a run in half precision differ by hundredths",
        },
        "words": "exactly the concepts below: scores are shares among them, without the rivals and the "
        "calibration of cckt predict; export all concepts that a photo may show",
        "threshold": detector.scale.own.score,
        "threshold_of": detector.scale.own.origin,
        "concepts": words.to_json(),
        "report": report.as_dict(),
    }
