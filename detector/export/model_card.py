"""Export a run as a folder for publication: weights, config, facts, and a model card made from them."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from cckt.cache_builder.base.atomic_files import temporary_of, write_bytes, write_json
from cckt.cache_builder.base.disk_faults import ROOM, require_room
from cckt.cache_builder.base.errors import UserError, counted
from cckt.cache_builder.base.untrusted.regular_files import read_regular
from cckt.detector.config.config import Config, save_config
from cckt.detector.evaluation.metrics import LABELS, percent
from cckt.detector.runs.base_text import BASE_TEXT_FILE, load_base_text
from cckt.detector.runs.checkpoints import evaluation_weights
from cckt.detector.runs.file_digests import check_recorded, record
from cckt.detector.runs.run_folder import Facts, evaluation_figures, run_config
from cckt.detector.runs.weights import load_weights, save_weights


def export_folder(run: Path, out: Path, *, licence: str = "other") -> Path:
    """Write a folder that `cckt.Detector.load(out)` loads, with a model card; return the folder.

    It holds model.safetensors, config.toml, config.json (the same config, for model hubs), facts.json,
    base_text.safetensors (embeddings of the base concepts, if the run has them), metrics.json (the run's own
    evaluation, which sets the threshold) and README.md; neither optimiser state, logs nor images. licence:
    identifier of the licence of the weights, such as apache-2.0. Raises UserError if `run` is not a run
    folder or has no weights, if `out` is not empty, and if the disk has no room. OSError if a file cannot be
    written; no file remains then.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(
            f"--out {out}: is not an empty folder, expected a new or an empty one; name another folder."
        )
    config, facts = run_config(run), Facts.load(run)
    weights = evaluation_weights(run)
    figures = evaluation_figures(run)
    require_room(out.parent, weights.stat().st_size + ROOM)
    tensors = load_weights(weights)
    has_base_text = load_base_text(run, facts) is not None  # raises UserError for a damaged file
    out.parent.mkdir(parents=True, exist_ok=True)
    whole = temporary_of(out)
    target, out = out, whole
    out.mkdir()
    try:
        save_weights(out / "model.safetensors", tensors)
        # The weights file includes the backbone: the source of its initial weights is not read again.
        save_config(config, out / "config.toml")
        write_json(out / "config.json", {"library": "cckt", **config.to_dict()})
        facts.save(out)
        if has_base_text:
            write_bytes(out / BASE_TEXT_FILE, read_regular(run / BASE_TEXT_FILE))
        write_json(out / "metrics.json", {"evaluation": figures})
        if (run / "versions.json").is_file():
            check_recorded(run / "versions.json")
            write_bytes(out / "versions.json", read_regular(run / "versions.json"))
        record(
            out,
            "model.safetensors",
            "config.toml",
            "facts.json",
            BASE_TEXT_FILE,
            "metrics.json",
            "versions.json",
        )
        count = sum(value.numel() for value in tensors.values())
        card = model_card(run.resolve().name, config, facts, figures, licence, count)
        write_bytes(out / "README.md", card.encode(errors="backslashreplace"))
        os.rename(whole, target)  # replaces an empty folder, and fails if somebody has put something into it
    finally:
        shutil.rmtree(whole, ignore_errors=True)
    return target


def _tag(student: str) -> str:
    """Return the name of a student as a tag of a model hub, which has letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", student.lower()).strip("-") or "detector"


def _methods(config: Config) -> str:
    """Return the methods whose parts a config trains, with their papers."""
    levels = ("instance_contrast", "instance_relation", "novel_aware_classes", "text_relation")
    hierarchical = any(config.terms[name].weight > 0 for name in levels)
    parts = (("HD-OVD", hierarchical), ("CCKT-Det, ICLR 2025", config.trains_cckt))
    found = [name for name, used in parts if used]
    return " and ".join(found) or "text embeddings as classes"


def _deformable_rows(config: Config) -> list[str]:
    """Return the rows of a card that only Deformable DETR has."""
    model = config.model
    if model.student != "deformable_detr":
        return []
    return [
        f"| queries | {model.queries} |",
        f"| encoder, decoder layers | {model.encoder_layers}, {model.decoder_layers} |",
        f"| guided by present concepts | {'yes' if config.guidance.enabled else 'no'} |",
    ]


def model_card(
    name: str, config: Config, facts: Facts, figures: dict[str, Any], licence: str, parameters: int
) -> str:
    """Return the model card: Markdown with the front matter of model hubs.

    Names of concepts, runs, data sets and teachers come from anywhere: they are escaped, so that they are
    neither Markdown, HTML nor YAML.
    """
    teacher = facts.taught_by or {}
    known = {label: figures[key] for key, label in LABELS.items() if isinstance(figures.get(key), float)}
    about = figures.get("figures") or {}
    model, names = config.model, facts.names
    lines = [
        "---",
        "library_name: cckt",
        "pipeline_tag: zero-shot-object-detection",
        f"license: {_yaml(licence)}",
        f"tags: [open-vocabulary-detection, knowledge-transfer, {_tag(model.student)}]",
        "---",
        "",
        f"# {_text(name)}",
        "",
        "An open-vocabulary object detector. It was trained on boxes of the base concepts below, and detects "
        f"any concept given by name. Made with cckt ({_methods(config)}).",
        "",
        "## Use",
        "",
        "```python",
        "from cckt import Detector",
        'detector = Detector.load("this/folder")  # also loads the teacher below',
        'found = detector.predict(["photo.jpg"], "forklift, pallet, tv|television")',
        "```",
        "",
        'Or: `cckt predict this/folder photo.jpg --vocabulary "forklift, pallet" --out finds`',
        "",
        "## Model",
        "",
        "| | |",
        "|---|---|",
        f"| recipe | {_text(config.recipe)} |",
        f"| student | {_text(model.student)} |",
        f"| backbone | {_text(model.backbone)}, initial weights: {_text(model.backbone_weights)} |",
        f"| parameters | {parameters:,} |",
        *_deformable_rows(config),
        f"| classification score | {_text(config.inference.classification)} |",
        f"| image size | short side {config.data.eval_short_side} px, long {config.data.max_side} px |",
        "",
        "## Teacher",
        "",
        "Text must be embedded by the teacher that the detector was trained with:",
        "",
        f"- name: {_text(teacher.get('name', 'an imported table of text embeddings'))}",
        f"- weights: {_text(teacher.get('weight_digest', 'unknown'))}",
        f"- width: {facts.embedding_dim}",
        "",
        "## Data",
        "",
        f"Trained on {counted(facts.n_classes, 'base concept')} of the index {_text(facts.index_digest)}: "
        f"{', '.join(map(_text, names))}.",
        *([f"Some boxes are not annotations: {_text(facts.pseudo)}."] if facts.pseudo else []),
        "",
        "## Figures",
        "",
    ]
    if known:
        lines += [
            f"On {_text(Path(str(about.get('data', 'the held-out photos'))).name)}, "
            f"{_text(figures.get('photos', '–'))} photos, {_text(figures.get('boxes', '–'))} boxes, "
            f"protocol {_text(figures.get('protocol', '–'))}, priors: "
            f"{_text((about.get('prior') or {}).get('source', config.prior.source))}. In percent.",
            "",
            "| figure | value |",
            "|---|---|",
            *(f"| {label} | {percent(value)} |" for label, value in known.items()),
        ]
    else:
        lines.append("This run has no evaluation.")
    lines += [
        "",
        "## Licences",
        "",
        f"These weights: {_text(licence)}. The training images, annotations, backbone weights and teacher "
        "each have their own licence; check that these permit publication before you publish this folder "
        "(teacher: "
        f"{_text(teacher.get('name', 'unknown'))}; backbone: {_text(model.backbone_weights)}). "
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


def _text(value: object) -> str:
    """Return a value as plain text within Markdown: no markup, HTML, table cell or second line."""
    text = re.sub(r"[\x00-\x1f\x7f-\x9f]+", " ", str(value))
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*\[\]|])", r"\\\1", text)


def _yaml(value: str) -> str:
    """Return a string as one YAML scalar, quoted unless it is an identifier such as apache-2.0."""
    return value if re.fullmatch(r"[A-Za-z][A-Za-z0-9.-]*", value) else json.dumps(value)
