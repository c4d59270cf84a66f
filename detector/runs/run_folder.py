"""Files of a run folder: facts, checkpoints and weights.

```
config.toml  versions.json  facts.json      resolved options; versions of the software; facts about the data
base_text.safetensors                       text embeddings of the base concepts (see base_text.py)
data.json  wandb.json                       paths of the data sets; id of the run at Weights & Biases
metrics.jsonl  tensorboard/  metrics.json   log; evaluation at the end of the training
checkpoints/step-00001000/                  model.safetensors, average.safetensors (with EMA), state.pt,
                                            files.json
digests.json                                digests of these files (see file_digests.py)
model.safetensors                           weights of a finished run (the moving average, with EMA)
best.safetensors                            weights of the best evaluation during training
.training.lock                              process that trains in the folder (see folder_guard.py)
```

Each file is written under a temporary name and renamed, so it is never incomplete. files.json holds the
digests of the files of a checkpoint: a damaged checkpoint is detected, and the one before it is used. Nothing
is unpickled: weights are safetensors, and state.pt is read by torch.load(weights_only=True).
"""

from __future__ import annotations

import dataclasses
import io
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from cckt.cache_builder.base.atomic_files import plain, write_bytes, write_json
from cckt.cache_builder.base.digests import file_digest
from cckt.cache_builder.base.disk_faults import raise_unless_missing
from cckt.cache_builder.base.errors import UserError, quoted
from cckt.cache_builder.base.untrusted.regular_files import read_regular_text, require_regular
from cckt.cache_builder.base.untrusted.text import parse_json
from cckt.cache_builder.proposals import Provenance
from cckt.cache_builder.store import teacher_of
from cckt.cache_builder.vocabulary import normalise_name
from cckt.detector.config.config import Config, load_config
from cckt.detector.runs.file_digests import check_recorded
from cckt.detector.runs.json_fields import as_written, fields_of

CHECKPOINTS, PARTIAL = "checkpoints", ".partial"
T = TypeVar("T")


@dataclass(frozen=True)
class Facts:
    """Facts about the data and the teacher of a run.

    Evaluation and prediction read them; a resumed run must have the same ones.
    """

    embedding_dim: int
    """Width D of the teacher's embeddings."""
    n_classes: int
    """Number of base concepts: rows of the text matrix in training, and outputs of a linear class head."""
    names: list[str]
    """Names of the base concepts, in the order of the classes."""
    category_ids: list[int]
    """Category ids of the base concepts, in the order of the classes."""
    index_digest: str
    """Digest of the training index."""
    text_recipe: dict[str, Any]
    """Recipe of the text column: teacher with its weight digest, templates."""
    crops_recipe: dict[str, Any]
    """Recipe of the crops column."""
    teacher: str = ""
    """Label of the teacher's columns (data.teacher)."""
    rows_recipes: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Name of teacher rows other than crops -> how their column was made."""
    priors_recipe: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Recipe of the priors used in training (guidance.priors); empty if training uses none."""
    pseudo: str = ""
    """Note on pseudo boxes in the training index, which come from another run; "" if there are none."""
    made_base: list[str] = dataclasses.field(default_factory=list)
    """Those of `names` that are base only because of pseudo boxes."""
    started_from: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    """Who trained the weights that the run started from (--from), and theirs; empty for random ones."""

    learned_from: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    """Who made the proposals and nouns that the run was trained on; earlier versions recorded none."""

    @property
    def makers(self) -> list[Provenance]:
        """`started_from` as provenances."""
        return [Provenance.from_recipe({"provenance": one}) for one in self.started_from]

    @property
    def makers_of_proposals(self) -> list[Provenance]:
        """`learned_from` as provenances."""
        return [Provenance.from_recipe({"provenance": one}) for one in self.learned_from]

    @property
    def annotated(self) -> set[str]:
        """Normalised names of the annotated base concepts, without those of `made_base`."""
        return {normalise_name(name) for name in self.names} - set(map(normalise_name, self.made_base))

    @property
    def taught_by(self) -> dict[str, Any] | None:
        """Recipe of the teacher of the run; None if its text was an imported table without a teacher."""
        return teacher_of(self.text_recipe) or teacher_of(self.crops_recipe)

    def save(self, run: Path) -> None:
        """Write facts.json."""
        write_json(run / "facts.json", dataclasses.asdict(self))

    @staticmethod
    def load(run: Path) -> Facts:
        """Read facts.json. Raises UserError if `run` is not a run folder."""
        return read_fields(run / "facts.json", Facts, "a run folder made by cckt train")


def read_json(path: Path, expected: str) -> Any:
    """Read a JSON file.

    Raises UserError if it is missing, invalid or damaged; `expected` describes the file in the message.
    """
    check_recorded(path)
    try:
        return parse_json(read_regular_text(path))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file, expected {expected}; check the name of the folder.") from None
    except (OSError, ValueError) as error:
        raise_unless_missing(error, path)
        raise UserError(f"{path}: found no readable JSON ({error}), expected {expected}.") from None


def read_fields(path: Path, kind: type[T], expected: str) -> T:
    """Read a JSON file that holds the fields of a dataclass.

    Raises UserError as `read_json` and `fields_of` do.
    """
    return fields_of(read_json(path, expected), kind, path)


def run_config(run: Path) -> Config:
    """Read the resolved config of a run. Raises UserError if `run` is not a run folder."""
    if not (run / "config.toml").is_file():
        raise UserError(f"{run}: no config.toml, expected a run folder made by cckt train; check the name.")
    check_recorded(run / "config.toml")
    return load_config(run / "config.toml", base=Config())


def evaluation_figures(run: Path) -> dict[str, Any]:
    """Return the figures of the evaluation at the end of training.

    Without one, return those of the newest `cckt eval` that used the run's own options; {} without either.
    """
    return next(own_evaluations(run), {})


def own_evaluations(run: Path, confirmed: bool = False) -> Iterator[dict[str, Any]]:
    """Yield the figures of the evaluation at the end of training, then those of each `cckt eval` that used
    the run's own options, newest first. confirmed: yield those of `cckt eval --confirm` instead.
    """
    if not confirmed and (run / "metrics.json").is_file():
        with as_written(run / "metrics.json"):
            known = read_json(run / "metrics.json", "figures written by cckt train")
            final = dict(known.get("evaluation") or {})
        if final:
            yield final
    config = run_config(run)
    options = plain(
        {"prior": dataclasses.asdict(config.prior), "inference": dataclasses.asdict(config.inference)}
    )
    for card in sorted(run.glob("eval-*/metrics.json"), key=lambda card: card.stat().st_mtime, reverse=True):
        with as_written(card):
            known = dict(read_json(card, "figures written by cckt eval"))
            figures = dict(known.get("figures") or {})
        if options.items() <= figures.items() and bool(figures.get("confirm")) == confirmed:
            yield known


def save_weights(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Write a state dict as safetensors; tensors that share memory are stored separately."""
    copies = {name: value.detach().cpu().contiguous().clone() for name, value in weights.items()}
    write_bytes(path, safetensors.torch.save(copies))


def load_weights(path: Path) -> dict[str, Tensor]:
    """Read safetensors on the CPU. Raises UserError if the file is missing or damaged."""
    check_recorded(path)
    try:
        return dict(safetensors.torch.load_file(require_regular(path)))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file, expected weights written by cckt train.") from None
    except (safetensors.SafetensorError, OSError) as error:
        raise_unless_missing(error, path)
        raise UserError(
            f"{path}: found no readable safetensors ({error}), expected weights written by cckt train; "
            "use another checkpoint of the run."
        ) from None


def load_into(model: nn.Module, weights: Mapping[str, Tensor], source: Path) -> None:
    """Load a state dict strictly. Raises UserError naming `source` and the first tensor that does not fit."""
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in weights.items()}
    advice = (
        "the run was made with another vocabulary size, teacher or model; use its own config and columns."
    )
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            shapes = f"found {found.get(name, 'nothing')}, expected {expected.get(name, 'nothing')}"
            raise UserError(f"{source}: tensor {name}: {shapes}; {advice}")
    model.load_state_dict(dict(weights))


def save_checkpoint(
    run: Path, step: int, weights: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any], keep: int
) -> Path:
    """Write checkpoints/step-XXXXXXXX and remove all but the newest `keep` checkpoints.

    weights: name ("model", "average") -> state dict. state: values that torch.load(weights_only=True) can
    read. Raises UserError if it cannot be written, for example because the disk is full; no partial
    checkpoint remains.
    """
    folder = run / CHECKPOINTS
    final, partial = folder / f"step-{step:08d}", folder / f".step-{step:08d}.{os.getpid()}{PARTIAL}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        for name, tensors in weights.items():
            save_weights(partial / f"{name}.safetensors", tensors)
        buffer = io.BytesIO()  # torch.save into a file raises RuntimeError, not OSError, on a full disk
        torch.save(dict(state), buffer)
        write_bytes(partial / "state.pt", buffer.getvalue())
        digests = {file.name: file_digest(file) for file in sorted(partial.iterdir())}
        write_json(partial / "files.json", {"step": step, "files": digests})
        shutil.rmtree(final, ignore_errors=True)
        os.replace(partial, final)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise UserError(
            f"{final}: the checkpoint could not be written ({error.strerror}); free disk space there and "
            f"continue from the previous checkpoint, if there is one, with cckt train --resume {quoted(run)}."
        ) from error
    _remove_old(run, keep)
    return final


def newest_checkpoint(run: Path) -> tuple[Path | None, list[str]]:
    """Return the newest intact checkpoint, or None, and a message about each newer one that is damaged."""
    damaged: list[str] = []
    for folder in _all_checkpoints(run):
        damage = _find_damage(folder)
        if damage is None:
            return folder, damaged
        damaged.append(f"{folder}: {damage}; using the checkpoint before it")
    return None, damaged


def remove_leftovers(run: Path, step: int, keep: int) -> None:
    """Remove the leftovers of a killed run: partial checkpoints, damaged ones after `step`, and all but the
    newest `keep`."""
    for folder in _all_checkpoints(run):
        if int(folder.name.removeprefix("step-")) > step:
            shutil.rmtree(folder)
    _remove_old(run, keep)
    for partial in (run / CHECKPOINTS).glob(f".step-*{PARTIAL}"):
        shutil.rmtree(partial, ignore_errors=True)


def load_state(checkpoint: Path) -> dict[str, Any]:
    """Read state.pt of an intact checkpoint on the CPU."""
    state: dict[str, Any] = torch.load(
        require_regular(checkpoint / "state.pt"), map_location="cpu", weights_only=True
    )
    return state


def evaluation_weights(run: Path) -> Path:
    """Return the weights file by which a run is evaluated.

    model.safetensors if the run has finished, else the file of its newest checkpoint (the moving average,
    with EMA). Raises UserError if there is neither, or if the newest checkpoint is damaged.
    """
    if (run / "model.safetensors").is_file():
        return run / "model.safetensors"
    newest, damaged = newest_checkpoint(run)
    if newest is not None and damaged:
        raise UserError(
            f"{damaged[0].partition(';')[0]}; continue with cckt train --resume {quoted(run)}, or delete "
            "this folder "
            "to use the checkpoint before it."
        )
    if newest is None:
        raise UserError(
            f"{run}: no model.safetensors and no intact checkpoint; train it first with cckt train."
        )
    average = newest / "average.safetensors"
    return average if average.is_file() else newest / "model.safetensors"


def _remove_old(run: Path, keep: int) -> None:
    for old in _all_checkpoints(run)[keep:]:
        shutil.rmtree(old, ignore_errors=True)


def _all_checkpoints(run: Path) -> list[Path]:
    """Return the checkpoint folders, newest first."""
    return sorted((run / CHECKPOINTS).glob(f"step-{'[0-9]' * 8}"), reverse=True)


def _find_damage(folder: Path) -> str | None:
    """Return a description of the first missing or damaged file of a checkpoint; None if it is intact."""
    try:
        listed = parse_json(read_regular_text(folder / "files.json"))
        digests = listed["files"]
        intact = listed.keys() == {"step", "files"} and listed["step"] == int(folder.name.rpartition("-")[2])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        intact = False
    if not intact or not isinstance(digests, dict) or "state.pt" not in digests:
        return "files.json is missing or damaged"
    for name, digest in digests.items():
        if not (folder / name).is_file() or file_digest(folder / name) != digest:
            return f"{name} is missing or damaged"
    return None
