"""One against another on the same photos: does novel AP50 differ, or is it chance?"""

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
from cckt.detector.evaluation.matches import match
from cckt.detector.evaluation.metrics import Metrics, percent
from cckt.detector.evaluation.truth import locate, truth_of
from cckt.detector.ranks.world import joined


def compare_detections(
    index: Index,
    a: Detections,
    b: Detections,
    *,
    protocol: str = "auto",
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Comparison]:
    """Whether the protocol's headline figures of B differ from A's: paired bootstrap over the photos."""
    truth = truth_of(index, protocol)
    thresholds = thresholds_for(truth)
    matches = [match(truth, locate(detections, index, truth), thresholds) for detections in (a, b)]
    return compare(truth, *matches, resamples=resamples, seed=seed)


@dataclass(frozen=True)
class Duel:
    """Run A against run B on one data set: the figures of both, and of their differences, B minus A."""

    a: Metrics
    b: Metrics
    comparisons: dict[str, Comparison]

    def rows(self) -> list[tuple[str, str, str, str, str, str]]:
        """(figure, A, B, B - A with its interval, p, verdict), in percent."""
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
        """For JSON."""
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
) -> Duel:
    """Score two runs on a data set and say whether `against` (B) differs from `run` (A).

    Either may be a file in COCO results format. priors, classification, overrides: for both, as
    `evaluate_run` takes them. Both runs' figures and detections are written as `evaluate_run` does. Raises
    UserError as it does.
    """
    index = open_index(data)

    def answer(one: Path) -> tuple[Metrics, Detections]:
        if one.suffix == ".json":
            found = Detections.from_json(one, "--detections" if one == run else "--against")
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
        return metrics, Detections.from_json(Path(metrics.figures["folder"]) / "detections.json")

    with joined(device):
        (metrics_a, a), (metrics_b, b) = answer(run), answer(against)
    compared = compare_detections(index, a, b, protocol=protocol, resamples=resamples, seed=seed)
    return Duel(metrics_a, metrics_b, compared)
