"""The figures of the papers: of detections from anywhere, of a model in memory, of a run on disk.

Three steps that can be taken one by one: `open_scene` (what is looked at), `infer` (detections, in as many
variants of priors and scoring as wanted, from one pass), `evaluate_detections` (figures by the rules of the
COCO and LVIS APIs).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from cckt.cache_builder.base.atomic_files import write_json
from cckt.cache_builder.base.digests import file_digest
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.progress import Progress
from cckt.cache_builder.index import Index
from cckt.detector.config.config import Config, InferenceConfig, PriorConfig, apply_overrides
from cckt.detector.config.dataclass_io import choices
from cckt.detector.evaluation.detect import Abandoned, Inferred, Variant, infer_together
from cckt.detector.evaluation.detections import Detections
from cckt.detector.evaluation.figures import measure, scored
from cckt.detector.evaluation.metrics import Metrics
from cckt.detector.evaluation.protocols import Protocol
from cckt.detector.evaluation.scene import Scene, open_scene
from cckt.detector.inference.network import Network, load_network, network_of
from cckt.detector.ranks.world import World, joined
from cckt.detector.runs.run_folder import Facts, evaluation_weights, read_json
from cckt.detector.students.contract import Student


def evaluate_detections(
    index: Index,
    detections: Detections,
    *,
    engine: str = "hotcoco",
    protocol: str = "auto",
    resamples: int = 0,
    seed: int = 0,
) -> Metrics:
    """Score any detections, ours or not, on an index.

    engine: "hotcoco" (fast) or "pycocotools" (the oracle); the figures are the same. protocol: "ov-coco",
    "ov-lvis", "coco", "objects365", "custom", or "auto", which looks at the index (see `protocol_for`).
    resamples: above 0, bootstrap intervals over photos for the protocol's headline figures are added.
    Detections of concepts that the protocol ignores are dropped. Raises UserError for ids that the index does
    not have. Source: METHOD.md section 1.
    """
    return measure(index, detections, protocol, engine).with_intervals(resamples, seed)


def tell_other_index(detections: Path, index: Index, progress: Progress) -> None:
    """A note where the figures beside a file of detections, ours, say that it is of another index."""
    card = detections.with_name("metrics.json")
    if not card.is_file():
        return
    figures = read_json(card, "figures").get("figures") or {}
    known = figures.get("index_digest", index.digest)
    if known != index.digest:
        progress.note(
            f"{card} says that these were found on {figures.get('data')} ({known}), not on {index.folder} "
            f"({index.digest})"
        )


def evaluate_model(
    model: Student,
    config: Config,
    data: Path | Index,
    facts: Facts | None = None,
    *,
    engine: str = "hotcoco",
    protocol: str = "auto",
    world: World | None = None,
    stop: Callable[[], bool] = bool,
    progress: Progress | None = None,
) -> Metrics:
    """Score a model where it is, with the config's priors and scoring; it is left in eval mode.

    data: a data-set folder (or its index) with a text column and the column of config.prior.source. facts: of
    its run, to check the teacher; None where the caller has done so. world: ranks with the same model, who
    share the photos and all get the figures. stop: is asked now and then whether to leave; every rank then
    raises `Abandoned`. Raises UserError for what is missing or does not fit.
    """
    scene = open_scene(data, facts, protocol)
    network = network_of(model, config)
    variant = under(scene.protocol, Variant("", config.prior, config.inference))
    world = world or World(0, 1, network.device)
    return _evaluated(world, network, scene, variant, engine, 0, facts, progress, stop)[0]


def evaluate_run(
    run: Path,
    data: Path,
    *,
    priors: str | None = None,
    classification: str | None = None,
    restrict_to_present: bool | None = None,
    overrides: Sequence[str] = (),
    engine: str = "hotcoco",
    protocol: str = "auto",
    device: str = "auto",
    weights: Path | None = None,
    resamples: int = 0,
    out: Path | None = None,
    progress: Progress | None = None,
) -> Metrics:
    """Score a run folder on a data set, and write detections.json and metrics.json.

    priors: "clip", "mllm", "oracle", "corrupted" or "none"; classification: "similarity", "head" or
    "product"; restrict_to_present: drop concepts the priors rule out. None takes each from the run's config.
    overrides: "inference.prior_weight=0.5", "prior.rho=0.8": other options of these two sections. protocol:
    as for `evaluate_detections`; one that is named also says how many detections a photo may have. weights:
    other than those the run is judged by. resamples: bootstrap intervals. out: the folder to write; None: in
    the run, eval-DATA-PRIORS-CLASSIFICATION, with the overrides and the protocol's name if there are any. The
    metrics' figures say the folder, the images per second and the settings.

    The data set may have another vocabulary than the one the run was trained on (transfer): its own text
    column, made by the run's teacher, is what is asked for. Under torchrun or srun the ranks share the
    photos, and the first one writes. Raises UserError for a run, data set or column that is missing or does
    not fit the others.
    """
    with joined(device) as world:
        network, facts = load_network(run, str(world.device), weights)
        scene = open_scene(data, facts, protocol)
        config = asked_otherwise(network.config, overrides)
        chosen = chosen_variant(config, priors, classification, restrict_to_present)
        variant = under(scene.protocol, chosen)
        metrics, inferred = _evaluated(world, network, scene, variant, engine, resamples, facts, progress)
        named = "".join(f"-{one.partition('.')[2]}" for one in overrides)
        named = re.sub(r"[^\w.=-]", "_", named) + ("" if protocol == "auto" else f"-{protocol}")
        out = out or run / f"eval-{Path(data).resolve().name}-{variant.name}{named}"
        made = made_of(run, scene, variant.prior, weights)
        metrics = replace(
            metrics, figures=metrics.figures | {"run": str(run), "folder": str(out), "made_of": made}
        )
        if inferred is not None:
            inferred.detections[variant.name].to_json(out / "detections.json")
            write_json(out / "metrics.json", metrics.as_dict())
        world.wait()  # for the files
    return metrics


def made_of(run: Path, scene: Scene, prior: PriorConfig, weights: Path | None = None) -> dict[str, str]:
    """Digests of all that a run's figures on a scene follow from, but for the settings."""
    return {"weights": file_digest(weights or evaluation_weights(run)), **scene.made_of(prior)}


def asked_otherwise(config: Config, overrides: Sequence[str]) -> Config:
    """The config with other options of priors and scoring. UserError for any other section's."""
    for one in overrides:
        if not one.startswith(("inference.", "prior.")):
            raise UserError(
                f"--set {one}: an evaluation can change options of inference and prior alone; train a run "
                "with the others."
            )
    return apply_overrides(config, overrides)


def chosen_variant(
    config: Config,
    priors: str | None = None,
    classification: str | None = None,
    restrict_to_present: bool | None = None,
) -> Variant:
    """The config's way to detections but for what was chosen. Raises UserError for an unknown choice."""
    prior, inference = config.prior, config.inference
    _check("--priors", priors, choices(PriorConfig, "source"))
    _check("--classification", classification, choices(InferenceConfig, "classification"))
    if priors is not None:
        prior = replace(prior, source=priors)  # type: ignore[arg-type]
    if classification is not None:
        inference = replace(inference, classification=classification)  # type: ignore[arg-type]
    if restrict_to_present is not None:
        inference = replace(inference, restrict_to_present=restrict_to_present)
    restricted = "-restricted" if inference.restrict_to_present else ""
    return Variant(f"{prior.source}-{inference.classification}{restricted}", prior, inference)


def under(protocol: Protocol, variant: Variant) -> Variant:
    """The variant with as many detections a photo as the protocol wants."""
    if protocol.top is None:
        return variant
    return replace(variant, inference=replace(variant.inference, top=protocol.top))


def _evaluated(
    world: World,
    network: Network,
    scene: Scene,
    variant: Variant,
    engine: str,
    resamples: int,
    facts: Facts | None,
    progress: Progress | None,
    stop: Callable[[], bool] = bool,
) -> tuple[Metrics, Inferred | None]:
    """The figures, on every rank; what was found, on rank 0. What any rank raises is raised by all."""
    outcome: Metrics | UserError | Abandoned = Abandoned()
    inferred = None
    try:
        shown = progress if world.first else None
        inferred = infer_together(network, scene, [variant], world, stop=stop, progress=shown)
        if inferred is not None:
            outcome = scored(scene, inferred, variant, engine, resamples, facts)
    except (UserError, Abandoned) as error:
        if world.size == 1:
            raise
        outcome = error
    outcome = world.share(outcome)
    if not isinstance(outcome, Metrics):
        raise outcome
    return outcome, inferred


def _check(option: str, value: str | None, known: Sequence[str]) -> None:
    if value is not None and value not in known:
        raise UserError(f"{option} {value} is not known; expected one of {', '.join(known)}.")
