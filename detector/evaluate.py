"""The figures of the papers: of detections from anywhere, of a model in memory, of a run on disk.

Three steps that can be taken one by one: `open_scene` (what is looked at), `infer` (detections, in as many
variants of priors and scoring as wanted, from one pass), `evaluate_detections` (figures by the rules of the
COCO and LVIS APIs).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import nn

from cache_builder.errors import UserError
from cache_builder.index import Index
from cache_builder.progress import Progress
from detector.checkpoint import Facts, write_json
from detector.config import Config
from detector.evaluation.bootstrap import Comparison, compare, intervals
from detector.evaluation.detections import Detections
from detector.evaluation.engines import curves
from detector.evaluation.inference import Inferred, Variant, infer
from detector.evaluation.matches import best_f1, match
from detector.evaluation.metrics import Metrics, summarise
from detector.evaluation.scene import SOURCES, Scene, open_scene
from detector.evaluation.truth import Truth, locate, truth_of
from detector.network import load_network, network_of

PROTOCOLS = ("auto", "coco", "lvis")


def evaluate_detections(
    index: Index,
    detections: Detections,
    *,
    engine: str = "hotcoco",
    protocol: str = "auto",
    resamples: int = 0,
    seed: int = 0,
) -> Metrics:
    """Score any detections, ours or not, over the index's base and novel concepts.

    engine: "hotcoco" (fast) or "pycocotools" (the oracle); the figures are the same. protocol: "coco" (100
    detections a photo and concept), "lvis" (federated, 300 a photo), "auto": lvis if the concepts have
    frequencies.
    resamples: above 0, bootstrap intervals over photos for AP50 base, novel and all are added.
    `other` concepts are no ground truth, and detections of them are dropped. Raises UserError for ids that
    the index does not have. Source: METHOD.md section 1.
    """
    truth = _truth(index, protocol)
    found = locate(detections, index, truth)
    metrics = summarise(truth, curves(truth, found, engine), detections=len(detections), engine=engine)
    if resamples:
        drawn = intervals(truth, match(truth, found), resamples=resamples, seed=seed)
        metrics = replace(metrics, intervals=drawn)
    return metrics


def compare_detections(
    index: Index,
    a: Detections,
    b: Detections,
    *,
    protocol: str = "auto",
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Comparison]:
    """Whether AP50 base, novel and all of B differ from A's: paired bootstrap over the photos."""
    truth = _truth(index, protocol)
    matches = [match(truth, locate(detections, index, truth)) for detections in (a, b)]
    return compare(truth, *matches, resamples=resamples, seed=seed)


def evaluate_model(
    model: nn.Module,
    config: Config,
    data: Path | Index,
    facts: Facts | None = None,
    *,
    engine: str = "hotcoco",
    progress: Progress | None = None,
) -> Metrics:
    """Score a model where it is, with the config's priors and scoring; it is left in eval mode.

    data: a data-set folder (or its index) with a text column and the column of config.prior.source. facts: of
    its run, to check the teacher; None where the caller has done so. Raises UserError for what is missing or
    does not fit.
    """
    scene = open_scene(data, facts)
    base = [concept.name for concept in scene.vocabulary if concept.split == "base"]
    network = network_of(model, config, facts.names if facts else base)
    variant = Variant("", config.prior, config.inference)
    inferred = infer(network, scene, [variant], progress=progress)
    return _scored(scene, inferred, variant, engine, 0)


def evaluate_run(
    run: Path,
    data: Path,
    *,
    priors: str | None = None,
    classification: str | None = None,
    restrict_to_present: bool | None = None,
    engine: str = "hotcoco",
    device: str = "auto",
    weights: Path | None = None,
    resamples: int = 0,
    out: Path | None = None,
    progress: Progress | None = None,
) -> Metrics:
    """Score a run folder on a data set, and write detections.json and metrics.json.

    priors: "clip", "mllm", "oracle" or "none"; classification: "similarity", "head" or "product";
    restrict_to_present: drop concepts the priors rule out. None takes each from the run's config. weights:
    other than those the run is judged by. resamples: bootstrap intervals. out: the folder to write; None: in
    the run, eval-DATA-PRIORS-CLASSIFICATION. The metrics' figures say the folder, the images per second and
    the settings. Raises UserError for a run, data set or column that is missing or does not fit the others.
    """
    network, facts = load_network(run, device, weights)
    variant = chosen_variant(network.config, priors, classification, restrict_to_present)
    scene = open_scene(data, facts)
    inferred = infer(network, scene, [variant], progress=progress)
    metrics = _scored(scene, inferred, variant, engine, resamples)
    out = out or run / f"eval-{Path(data).resolve().name}-{variant.name}"
    metrics = replace(metrics, figures={**metrics.figures, "run": str(run), "folder": str(out)})
    inferred.detections[variant.name].to_json(out / "detections.json")
    write_json(out / "metrics.json", metrics.as_dict())
    return metrics


def chosen_variant(
    config: Config,
    priors: str | None = None,
    classification: str | None = None,
    restrict_to_present: bool | None = None,
) -> Variant:
    """The config's way to detections but for what was chosen. Raises UserError for an unknown choice."""
    prior, inference = config.prior, config.inference
    _check("--priors", priors, SOURCES)
    _check("--classification", classification, ("similarity", "head", "product"))
    if priors is not None:
        prior = replace(prior, source=priors)  # type: ignore[arg-type]
    if classification is not None:
        inference = replace(inference, classification=classification)  # type: ignore[arg-type]
    if restrict_to_present is not None:
        inference = replace(inference, restrict_to_present=restrict_to_present)
    restricted = "-restricted" if inference.restrict_to_present else ""
    return Variant(f"{prior.source}-{inference.classification}{restricted}", prior, inference)


def _scored(scene: Scene, inferred: Inferred, variant: Variant, engine: str, resamples: int) -> Metrics:
    detections = inferred.detections[variant.name]
    truth = _truth(scene.index, "auto")
    found = locate(detections, scene.index, truth)
    metrics = summarise(truth, curves(truth, found, engine), detections=len(detections), engine=engine)
    matches = match(truth, found)
    if resamples:
        metrics = replace(metrics, intervals=intervals(truth, matches, resamples=resamples))
    figures: dict[str, Any] = {
        "data": str(scene.index.folder),
        "index_digest": scene.index.digest,
        "prior": asdict(variant.prior),
        "inference": asdict(variant.inference),
        "photos_unreadable": len(inferred.faults),
        "seconds": inferred.seconds,
        "images_per_second": inferred.images_per_second,
        "best_f1": best_f1(truth, matches),
    }
    return replace(metrics, figures=figures)


def _check(option: str, value: str | None, known: Sequence[str]) -> None:
    if value is not None and value not in known:
        raise UserError(f"{option} {value} is not known; expected one of {', '.join(known)}.")


def _truth(index: Index, protocol: str) -> Truth:
    _check("--protocol", protocol, PROTOCOLS)
    return truth_of(index, federated={"auto": None, "coco": False, "lvis": True}[protocol])
