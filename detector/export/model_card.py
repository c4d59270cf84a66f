"""A run as a folder that others can load and read about: weights, facts, and a README made from them."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

from cckt.cache_builder.base.atomic_files import write_bytes, write_json
from cckt.cache_builder.base.errors import UserError
from cckt.detector.config.config import Config, save_config
from cckt.detector.evaluation.metrics import LABELS, percent
from cckt.detector.runs.run_folder import (
    Facts,
    evaluation_figures,
    evaluation_weights,
    load_weights,
    run_config,
    save_weights,
)


def export_folder(run: Path, out: Path, *, licence: str = "other", overwrite: bool = False) -> Path:
    """Write a folder that `Detector.load(out)` opens, with a model card; returns it.

    It holds model.safetensors, config.toml, config.json (the same, for hubs that read it), facts.json,
    metrics.json (of its own evaluation, whose best threshold is the detector's) and README.md. No
    optimiser, log or photo. licence: of the weights, an identifier such as apache-2.0. Raises UserError
    where `run` is no run or has no weights, or `out` holds something.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())) and not overwrite:
        raise UserError(f"--out {out}: is not an empty folder; name another one.")
    config, facts = run_config(run), Facts.load(run)
    weights = evaluation_weights(run)
    figures = evaluation_figures(run)
    out.mkdir(parents=True, exist_ok=True)
    tensors = load_weights(weights)
    save_weights(out / "model.safetensors", tensors)
    # The backbone's weights are in the file, wherever they came from.
    save_config(config, out / "config.toml")
    write_json(out / "config.json", {"library": "cckt", **config.to_dict()})
    facts.save(out)
    write_json(out / "metrics.json", {"evaluation": figures})
    if (run / "versions.json").is_file():
        shutil.copyfile(run / "versions.json", out / "versions.json")
    count = sum(value.numel() for value in tensors.values())
    card = model_card(run.resolve().name, config, facts, figures, licence, count)
    write_bytes(out / "README.md", card.encode())
    return out


def model_card(
    name: str, config: Config, facts: Facts, figures: dict[str, Any], licence: str, parameters: int
) -> str:
    """Markdown with the front matter that model hubs read."""
    teacher = facts.taught_by or {}
    known = {label: figures[key] for key, label in LABELS.items() if isinstance(figures.get(key), float)}
    about = figures.get("figures") or {}
    model, names = config.model, facts.names
    lines = [
        "---",
        "library_name: cckt",
        "pipeline_tag: zero-shot-object-detection",
        f"license: {licence}",
        "tags: [open-vocabulary-detection, knowledge-transfer, deformable-detr]",
        "---",
        "",
        f"# {name}",
        "",
        "An open-vocabulary detector: it was trained on boxes of the base concepts below and finds what is "
        "named to it in words, whether or not it was ever annotated. Made with cckt (CCKT-Det, ICLR 2025).",
        "",
        "## Use",
        "",
        "```python",
        "from cckt import Detector",
        'detector = Detector.load("this/folder")  # with the teacher below, to read the words',
        'found = cckt.detector.inference.predict(["photo.jpg"], "forklift, pallet, tv|television")',
        "```",
        "",
        'Or: `cckt predict this/folder photo.jpg --vocabulary "forklift, pallet" --out finds`',
        "",
        "## What it is",
        "",
        "| | |",
        "|---|---|",
        f"| recipe | {config.recipe} |",
        f"| backbone | {model.backbone}, started from: {model.backbone_weights} |",
        f"| parameters | {parameters:,} |",
        f"| queries, layers | {model.queries}, {model.encoder_layers} + {model.decoder_layers} |",
        f"| guided by present concepts | {'yes' if config.guidance.enabled else 'no'} |",
        f"| scored by | {config.inference.classification} |",
        f"| photos at | short side {config.data.eval_short_side} px, long at most {config.data.max_side} |",
        "",
        "## Teacher",
        "",
        "Words must be embedded by the very teacher it learnt from:",
        "",
        f"- name: {teacher.get('name', 'an imported table of text embeddings')}",
        f"- weights: {teacher.get('weight_digest', 'not known')}",
        f"- width: {facts.embedding_dim}",
        "",
        "## Data",
        "",
        f"Trained on {facts.n_classes} base concepts of the index {facts.index_digest}: {', '.join(names)}.",
        *([f"Not all of it was annotated: {facts.pseudo}."] if facts.pseudo else []),
        "",
        "## Figures",
        "",
    ]
    if known:
        lines += [
            f"On {Path(str(about.get('data', 'the held-out photos'))).name}, {figures.get('photos', '–')} "
            f"photos, {figures.get('boxes', '–')} boxes, protocol {figures.get('protocol', '–')}, priors: "
            f"{(about.get('prior') or {}).get('source', config.prior.source)}. In percent.",
            "",
            "| figure | value |",
            "|---|---|",
            *(f"| {label} | {percent(value)} |" for label, value in known.items()),
        ]
    else:
        lines.append("It was not evaluated yet.")
    lines += [
        "",
        "## Licences",
        "",
        f"These weights: {licence}. They were learnt from photos, annotations, backbone weights and a "
        "teacher that each have a licence of their own; whoever publishes this folder checks that these "
        f"allow it (teacher: {teacher.get('name', 'unknown')}; backbone: {model.backbone_weights}). "
        "The code of cckt is Apache-2.0.",
        "",
        "## Config",
        "",
        "```json",
        json.dumps({k: v for k, v in dataclasses.asdict(config).items() if k != "data"}, indent=1),
        "```",
        "",
    ]
    return "\n".join(lines)
