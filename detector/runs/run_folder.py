"""Files of a run folder; its facts, options and figures.

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

Each file is written under a temporary name and renamed, so it is never incomplete. Nothing is unpickled:
weights are safetensors (see weights.py), and state.pt is read without code (see checkpoints.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from cckt.cache_builder.base.atomic_files import plain, write_json
from cckt.cache_builder.base.disk_faults import raise_unless_missing
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.untrusted.regular_files import read_regular_text
from cckt.cache_builder.base.untrusted.text import parse_json
from cckt.cache_builder.proposals import Provenance
from cckt.cache_builder.store import teacher_of
from cckt.cache_builder.vocabulary import normalise_name
from cckt.detector.config.config import Config, load_config
from cckt.detector.runs.file_digests import check_recorded
from cckt.detector.runs.json_fields import as_written, fields_of

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

    synonyms: list[list[str]] = dataclasses.field(default_factory=list)
    """Further names of each of `names`, which no other concept has; earlier versions recorded none."""

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
        """Normalised names, with synonyms, of the concepts that had annotated boxes in a training of the run:
        of base concepts without `made_base`, and of what the weights were trained on that it started from."""
        made = set(map(normalise_name, self.made_base))
        own = {
            normalise_name(name)
            for row, first in enumerate(self.names)
            if normalise_name(first) not in made
            for name in self.names_of(row)
        }
        return own | {normalise_name(name) for maker in self.makers for name in maker.concepts}

    def names_of(self, row: int) -> list[str]:
        """Return the name of a base concept, then its synonyms."""
        return [self.names[row], *(self.synonyms[row] if row < len(self.synonyms) else ())]

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
