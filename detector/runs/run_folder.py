"""The run folder: what a run knows, its checkpoints and its weights.

```
config.toml  versions.json  facts.json   what was asked, with what software, on which data
data.json  wandb.json                    where these data lie; the run's id at Weights & Biases, with one
metrics.jsonl  tensorboard/  metrics.json   the log, and the evaluation at the end
checkpoints/step-00001000/   model.safetensors, average.safetensors (with EMA), state.pt, files.json
model.safetensors            the weights a finished run is judged by (the average, with EMA)
best.safetensors             those of the best evaluation, where there were several
```

Everything appears whole, by rename. files.json holds the digest of each file of a checkpoint, so that a
torn one is known and the one before it taken. Nothing is unpickled: safetensors and, for state.pt,
torch.load(weights_only=True).
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from cckt.cache_builder.base.atomic_files import plain
from cckt.cache_builder.base.atomic_files import write_bytes as write_bytes  # for all of this room
from cckt.cache_builder.base.atomic_files import write_json as write_json
from cckt.cache_builder.base.digests import file_digest
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.store import teacher_of
from cckt.cache_builder.vocabulary import normalise_name
from cckt.detector.config.config import Config, load_config

FOLDER, PARTIAL = "checkpoints", ".partial"


@dataclass(frozen=True)
class Facts:
    """What a run was made of; evaluation and prediction need it, and resuming compares it."""

    embedding_dim: int
    """D of the teacher."""
    n_classes: int
    """Base concepts: the rows of the text matrix in training, and the outputs of a linear head."""
    names: list[str]
    """Of the base concepts, in that order."""
    category_ids: list[int]
    """Of the base concepts, in that order."""
    index_digest: str
    """Of the training index."""
    text_recipe: dict[str, Any]
    """How the text column was made: teacher and its weight digest, templates."""
    crops_recipe: dict[str, Any]
    """How the crops column was made."""
    teacher: str = ""
    """Label of that teacher's columns (data.teacher)."""
    priors_recipe: dict[str, Any] = dataclasses.field(default_factory=dict)
    """How the priors that training heeds were made; empty where it heeds none (train.guidance_priors)."""
    pseudo: str = ""
    """What of the training index is another run's finds and no annotation; "" for nothing."""
    made_base: list[str] = dataclasses.field(default_factory=list)
    """Of `names`, those that are base by such finds alone."""

    @property
    def annotated(self) -> set[str]:
        """The base concepts that somebody annotated, as `normalise_name` writes them."""
        return {normalise_name(name) for name in self.names} - set(map(normalise_name, self.made_base))

    @property
    def taught_by(self) -> dict[str, Any] | None:
        """The teacher that the run learnt from; None where its text was an imported table without one."""
        return teacher_of(self.text_recipe) or teacher_of(self.crops_recipe)

    def save(self, run: Path) -> None:
        """Write facts.json."""
        write_json(run / "facts.json", dataclasses.asdict(self))

    @staticmethod
    def load(run: Path) -> Facts:
        """Read facts.json. Raises UserError where `run` is no run folder."""
        return Facts(**read_json(run / "facts.json", "a run folder made by cckt train"))


def read_json(path: Path, expected: str) -> Any:
    """Raises UserError where the file is missing or no JSON; `expected` says what the folder should be."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file, expected {expected}; check the folder's name.") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: found no readable JSON ({error}), expected {expected}.") from None


def run_config(run: Path) -> Config:
    """The resolved config of a run. Raises UserError where `run` is no run folder."""
    if not (run / "config.toml").is_file():
        raise UserError(f"{run}: no config.toml, expected a run folder made by cckt train; check the name.")
    return load_config(run / "config.toml", base=Config())


def own_figures(run: Path) -> dict[str, Any]:
    """The figures of the run's own evaluation, at its end; of one that had none, those of its newest by cckt
    eval that was asked just as the run is set up. {} without either.
    """
    if (run / "metrics.json").is_file():
        own = dict(read_json(run / "metrics.json", "figures written by cckt train").get("evaluation") or {})
        if own:
            return own
    config = run_config(run)
    asked = plain(
        {"prior": dataclasses.asdict(config.prior), "inference": dataclasses.asdict(config.inference)}
    )
    for card in sorted(run.glob("eval-*/metrics.json"), key=lambda card: card.stat().st_mtime, reverse=True):
        known = dict(read_json(card, "figures written by cckt eval"))
        if asked.items() <= (known.get("figures") or {}).items():
            return known
    return {}


def save_weights(path: Path, weights: Mapping[str, Tensor]) -> None:
    """A state dict as safetensors, whole by rename; tensors that share memory are written apart."""
    copies = {name: value.detach().cpu().contiguous().clone() for name, value in weights.items()}
    write_bytes(path, safetensors.torch.save(copies))


def load_weights(path: Path) -> dict[str, Tensor]:
    """Read safetensors on the CPU. Raises UserError where the file is missing or torn."""
    try:
        return dict(safetensors.torch.load_file(path))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file, expected weights written by cckt train.") from None
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(
            f"{path}: found no readable safetensors ({error}), expected weights written by cckt train; "
            "take another checkpoint of the run."
        ) from None


def fit_weights(model: nn.Module, weights: Mapping[str, Tensor], where: Path) -> None:
    """Load a state dict strictly. Raises UserError naming the first tensor that does not fit."""
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in weights.items()}
    advice = (
        "the run was made with another vocabulary size, teacher or model; use its own config and columns."
    )
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            shapes = f"found {found.get(name, 'nothing')}, expected {expected.get(name, 'nothing')}"
            raise UserError(f"{where}: tensor {name}: {shapes}; {advice}")
    model.load_state_dict(dict(weights))


def save_checkpoint(
    run: Path, step: int, weights: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any], keep: int
) -> Path:
    """Write checkpoints/step-XXXXXXXX, whole by rename, and drop all but the newest `keep`.

    weights: name ("model", "average") -> state dict; state: what torch.load(weights_only=True) can read.
    Raises UserError, and leaves nothing behind, where it cannot be written: a full disk, above all.
    """
    folder = run / FOLDER
    final, partial = folder / f"step-{step:08d}", folder / f".step-{step:08d}.{os.getpid()}{PARTIAL}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        for name, tensors in weights.items():
            save_weights(partial / f"{name}.safetensors", tensors)
        buffer = io.BytesIO()  # torch.save into a file tells of a full disk as of a fault of ours
        torch.save(dict(state), buffer)
        write_bytes(partial / "state.pt", buffer.getvalue())
        digests = {file.name: file_digest(file) for file in sorted(partial.iterdir())}
        write_json(partial / "files.json", {"step": step, "files": digests})
        shutil.rmtree(final, ignore_errors=True)
        os.replace(partial, final)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise UserError(
            f"{final}: the checkpoint could not be written ({error.strerror}); make room there and go on "
            f"with cckt train --resume {run}, from the checkpoint before it if there is one."
        ) from error
    for old in _all_checkpoints(run)[keep:]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def newest_checkpoint(run: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint whose files are whole, and a line about each newer one that is not."""
    torn: list[str] = []
    for folder in _all_checkpoints(run):
        fault = _fault(folder)
        if fault is None:
            return folder, torn
        torn.append(f"{folder}: {fault}; the checkpoint before it is taken")
    return None, torn


def sweep(run: Path, step: int) -> None:
    """Remove what a killed run left: checkpoints half written, and torn ones past `step`."""
    for folder in _all_checkpoints(run):
        if int(folder.name.removeprefix("step-")) > step:
            shutil.rmtree(folder)
    for partial in (run / FOLDER).glob(f".step-*{PARTIAL}"):
        shutil.rmtree(partial, ignore_errors=True)


def load_state(checkpoint: Path) -> dict[str, Any]:
    """state.pt of a checkpoint that `newest_checkpoint` found, on the CPU."""
    state: dict[str, Any] = torch.load(checkpoint / "state.pt", map_location="cpu", weights_only=True)
    return state


def judged_weights(run: Path) -> Path:
    """The file a run is evaluated by: model.safetensors when finished, else that of its newest checkpoint.

    Raises UserError where there is neither.
    """
    if (run / "model.safetensors").is_file():
        return run / "model.safetensors"
    newest, _ = newest_checkpoint(run)
    if newest is None:
        raise UserError(
            f"{run}: no model.safetensors and no whole checkpoint; train it first with cckt train."
        )
    average = newest / "average.safetensors"
    return average if average.is_file() else newest / "model.safetensors"


def _all_checkpoints(run: Path) -> list[Path]:
    """Newest first."""
    return sorted((run / FOLDER).glob(f"step-{'[0-9]' * 8}"), reverse=True)


def _fault(folder: Path) -> str | None:
    try:
        digests = json.loads((folder / "files.json").read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return "files.json is missing or torn"
    for name, digest in digests.items():
        if not (folder / name).is_file() or file_digest(folder / name) != digest:
            return f"{name} is missing or torn"
    return None
