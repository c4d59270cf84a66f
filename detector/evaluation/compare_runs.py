"""Compare two runs on one data set: does AP50 novel differ by more than chance?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cckt.cache_builder.base.progress import Progress
from cckt.cache_builder.index import Index, open_index
from cckt.detector.evaluation.bootstrap import Comparison, compare, thresholds_for
from cckt.detector.evaluation.detections import Detections
from cckt.detector.evaluation.evaluate import evaluate_detections, evaluate_run
from cckt.detector.evaluation.ground_truth import ground_truth_of
from cckt.detector.evaluation.locate import locate_detections
from cckt.detector.evaluation.match_detections import match_detections
from cckt.detector.evaluation.metrics import Metrics, percent
from cckt.detector.evaluation.results_file import DETECTIONS_FILE, read_results
from cckt.detector.ranks.world import joined


def compare_detections(
    index: Index,
    a: Detections,
    b: Detections,
    *,
    protocol: str = "auto",
    resamples: int = 1000,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Comparison]:
    """Compare the headline figures of the protocol, B minus A, by paired bootstrap over the images."""
    truth = ground_truth_of(index, protocol)
    thresholds = thresholds_for(truth)
    matches = [
        match_detections(truth, locate_detections(detections, index, truth), thresholds)
        for detections in (a, b)
    ]
    return compare(truth, *matches, resamples=resamples, seed=seed, progress=progress)


@dataclass(frozen=True)
class RunComparison:
    """Metrics of runs A and B on one data set, and comparisons of their headline figures, B minus A."""

    a: Metrics
    b: Metrics
    comparisons: dict[str, Comparison]

    def rows(self) -> list[tuple[str, str, str, str, str, str]]:
        """Return (figure, A, B, B - A with its interval, p, verdict), in percent."""
        return [
            (
                name,
                percent(one.a),
                percent(one.b),
                f"{100 * one.difference:+.1f} ({100 * one.low:+.1f} to {100 * one.high:+.1f})",
                f"{one.p:.3f}",
                "differs" if one.differs else "no difference shown",
            )
            if one.known
            else (name, percent(one.a), percent(one.b), "–", "–", "nothing to compare")
            for name, one in self.comparisons.items()
        ]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        compared = {name: one.as_dict() for name, one in self.comparisons.items()}
        return {"a": self.a.as_dict(), "b": self.b.as_dict(), "comparisons": compared}


def compare_runs(
    run: Path,
    against: Path,
    data: Path,
    *,
    protocol: str = "auto",
    priors: str | None = None,
    classification: str | None = None,
    overrides: Sequence[str] = (),
    engine: str = "hotcoco",
    device: str = "auto",
    resamples: int = 1000,
    seed: int = 0,
    progress: Progress | None = None,
) -> RunComparison:
    """Score two runs on a data set and compare `against` (B) with `run` (A).

    Either may be a file in COCO results format. priors, classification, overrides: as for `evaluate_run`, for
    both runs. The metrics and detections of both runs are written as `evaluate_run` does. Raises UserError as
    `evaluate_run` and `read_results` do.
    """
    index = open_index(data)

    def scored(one: Path) -> tuple[Metrics, Detections]:
        if one.suffix == ".json":
            found = read_results(one, index, "--detections" if one == run else "--against", progress)
            return evaluate_detections(index, found, engine=engine, protocol=protocol), found
        metrics = evaluate_run(
            one,
            data,
            priors=priors,
            classification=classification,
            overrides=overrides,
            engine=engine,
            protocol=protocol,
            device=device,
            progress=progress,
        )
        return metrics, Detections.from_json(Path(metrics.figures["folder"]) / DETECTIONS_FILE)

    with joined(device):
        (metrics_a, a), (metrics_b, b) = scored(run), scored(against)
    compared = compare_detections(
        index, a, b, protocol=protocol, resamples=resamples, seed=seed, progress=progress
    )
    return RunComparison(metrics_a, metrics_b, compared)
