"""A run: the model in training, everything that checkpoints save and restore, and its folder."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cckt.cache_builder.base.atomic_files import write_json
from cckt.cache_builder.base.disk_faults import require_room
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.progress import Progress
from cckt.detector.config.config import Config, InferenceConfig, PriorConfig, save_config
from cckt.detector.config.dataclass_io import option_names
from cckt.detector.data.schedule import Schedule
from cckt.detector.losses.objective import Objective
from cckt.detector.losses.terms.term import RunInputs
from cckt.detector.ranks.world import World
from cckt.detector.runs.base_text import BASE_TEXT_FILE, save_base_text
from cckt.detector.runs.checkpoints import load_state, newest_checkpoint, remove_leftovers, save_checkpoint
from cckt.detector.runs.file_digests import recorded
from cckt.detector.runs.run_folder import Facts, read_fields, run_config
from cckt.detector.runs.weights import load_into, load_weights
from cckt.detector.students.build import build_student
from cckt.detector.training.optim import MovingAverage, build_optimizer
from cckt.detector.training.preflight import Ingredients
from cckt.detector.training.process import versions
from cckt.detector.training.start_weights import start_from
from cckt.detector.training.step import Stepper

MAY_CHANGE = {
    "train.epochs",
    "train.device",
    "train.log_every",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "train.evaluate_every",
    "train.best_metric",
    "train.nonfinite_limit",
    "train.spike_factor",
    "train.wandb_project",
    "train.checkpoint_activations",
    "train.accumulate",
    "train.compile",
    "train.deterministic",
    "model.attention_kernel",
    "data.workers",
    "data.cache_photos",
    "data.eval_short_side",
    *option_names(PriorConfig, "prior."),
    *option_names(InferenceConfig, "inference."),
}
"""Options that may change when a run is resumed. All others, and the options of priors if training uses them
(guidance.priors), determine what its steps compute."""


STARTED = ("config.toml", "versions.json", "data.json", "facts.json", BASE_TEXT_FILE)
"""Files of a run folder that are written before the first step."""


@dataclass(frozen=True)
class Folders:
    """Data sets and `max_steps` of a run, saved so that resuming does not need them again."""

    train: str
    """Absolute path."""
    val: str | None
    """Absolute path; None: no evaluation."""
    max_steps: int | None = None

    @staticmethod
    def of(train_data: Path, val_data: Path | None, max_steps: int | None) -> Folders:
        """Return the folders of relative or absolute paths."""
        val = str(val_data.resolve()) if val_data is not None else None
        return Folders(str(train_data.resolve()), val, max_steps)

    def save(self, run: Path) -> None:
        """Write data.json."""
        write_json(run / "data.json", asdict(self))

    @staticmethod
    def load(run: Path) -> Folders:
        """Read data.json. Raises UserError if `run` is not a run folder or has no data.json (old runs)."""
        run_config(run)
        if not (run / "data.json").is_file():
            raise UserError(
                f"{run}: found no data.json, expected one that names the training data; give --train FOLDER."
            )
        return read_fields(run / "data.json", Folders, "the data folders of a run")


class Run:
    """Model, objective, optimiser and moving average at a step: all state that checkpoints must hold."""

    def __init__(
        self,
        config: Config,
        ingredients: Ingredients,
        out: Path,
        world: World,
        start: Path | None = None,
    ) -> None:
        """start: a run folder or a file whose fitting weights replace the initial ones."""
        self.config, self.ingredients, self.out, self.world = config, ingredients, out, world
        settings = config.train
        torch.manual_seed(settings.seed)
        facts = ingredients.facts
        self.model = build_student(config, facts.embedding_dim).to(world.device)
        self.started = None if start is None else start_from(self.model, start)
        self.model.train()
        self.model.prepare_training(settings.checkpoint_activations)
        known = RunInputs(
            ingredients.text,
            self.model.output_layers,
            config.data.proposals,
            facts.rows_recipes,
            ingredients.photos.class_crops,
        )
        self.objective = Objective(
            config, facts.embedding_dim, extra_regions=self.model.has_extra_regions, run=known
        ).to(world.device)
        world.align(self.objective.buffers())
        if settings.compile:
            self.model.compile()  # in place, so that the names of the weights do not change
        self.optimizer = build_optimizer(self.model, settings, world.device)
        self.average = MovingAverage(self.model, settings.ema_decay) if settings.ema_decay else None
        photos = len(ingredients.photos)
        self.steps_per_epoch = Schedule(photos, settings.seed, settings.batch).steps_per_epoch
        text = ingredients.text.to(world.device)
        wrapped = world.wrap(self.model)
        self.stepper = Stepper(
            self.model,
            wrapped,
            self.objective,
            text,
            config,
            world,
            self.optimizer,
            self.average,
            self.steps_per_epoch,
        )
        self.step = 0
        self.best = float("-inf")
        self.best_of = {
            name: value
            for name, value in config.options().items()
            if name in ("train.best_metric", "data.eval_short_side")
            or name.startswith(("inference.", "prior."))
        }
        """Figure and options of the evaluation that made `best`, which other ones cannot be compared with."""
        self.evaluated = 0
        """Step of the last evaluation."""
        self.monitor_state: dict[str, Any] = {}
        """State of the monitor in the restored checkpoint."""
        self.saved = (-1, -1)
        """Step, and step of the last evaluation, of the newest checkpoint."""

    def open(self, resume: bool, folders: Folders, progress: Progress) -> None:
        """Create the run folder, or restore its newest checkpoint if `resume`.

        Raises UserError if the folder holds a run and `resume` is false, if it holds no intact checkpoint, or
        if that run has other options or data.
        """
        found, torn = newest_checkpoint(self.out)
        if resume:
            self._check_same()
            for line in torn:
                progress.note(line)
            if found is None:
                raise UserError(
                    f"{self.out}: found no intact checkpoint ({len(torn)} are torn), expected at least one "
                    "to resume; delete the folder and train again without --resume, or give another --out."
                )
            self._restore(found)
        elif found is not None or torn or (self.out / "model.safetensors").exists():
            step = "add --resume to continue it" if found else "delete it"
            raise UserError(f"{self.out}: already holds a run; {step}, or give another --out.")
        self.world.wait()
        if self.world.first:
            require_room(self.out, self._checkpoint_bytes() * (1 if resume else 1 + self._kept))
            try:
                self.out.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UserError(
                    f"--out {self.out}: the folder cannot be created ({error.strerror}); give another --out."
                ) from None
            remove_leftovers(self.out, self.step, self._kept)
            with recorded(
                self.out, "config.toml", "versions.json", "data.json", "facts.json", BASE_TEXT_FILE
            ):
                save_config(self.config, self.out / "config.toml")
                write_json(self.out / "versions.json", versions(self.world))
                folders.save(self.out)
                self.ingredients.facts.save(self.out)
                save_base_text(self.out, self.ingredients.text)

    @property
    def _kept(self) -> int:
        return self.config.train.keep_checkpoints

    def _checkpoint_bytes(self) -> int:
        """About the bytes of a checkpoint: weights, their moving average, and two moments of each weight."""
        weights: int = sum(one.numel() * one.element_size() for one in self.model.state_dict().values())
        return weights * (3 if self.average is None else 4)

    def _check_same(self) -> None:
        before, after = (config.options() for config in (run_config(self.out), self.config))
        fixed = {"prior"} if self.config.trains_on_priors else set()
        for option, value in after.items():
            free = option in MAY_CHANGE and option.partition(".")[0] not in fixed
            if value != before.get(option) and not free:
                raise UserError(
                    f"option {option}: found {value!r}, but the run in {self.out} was started with "
                    f"{before.get(option)!r}; resume with that value, or start another run."
                )
        facts, now = Facts.load(self.out), self.ingredients.facts
        # Earlier versions did not record it, and a corrected statement on a maker changes no row.
        facts = replace(facts, learned_from=now.learned_from)
        if facts != now:
            changed = next(key for key, value in vars(facts).items() if value != vars(now)[key])
            raise UserError(
                f"{self.out}: the run was started with other data ({changed} differs); resume it with the "
                "--train folder and the columns that it was started with."
            )

    def _restore(self, folder: Path) -> None:
        path = folder / "model.safetensors"
        load_into(self.model, load_weights(path), path)
        state = load_state(folder)
        if self.objective.state_dict():
            path = folder / "objective.safetensors"
            load_into(self.objective, load_weights(path), path)
        self.optimizer.load_state_dict(state["optimizer"])
        self.stepper.scaler.load_state_dict(state["scaler"])
        if self.average is not None:
            self.average.load(load_weights(folder / "average.safetensors"), state["average_updates"])
        self.step = state["step"]
        if state.get("best_of", self.best_of) == self.best_of:
            self.best = state["best"]
        self.evaluated = state.get("evaluated", self.step)
        self.monitor_state = {
            name: value for name, value in state.items() if name not in ("optimizer", "scaler")
        }
        self.saved = (self.step, self.evaluated)

    def save(self, monitor_state: dict[str, Any]) -> None:
        """Save a checkpoint of this step, on rank 0, unless it is already saved."""
        if not self.world.first or self.saved == (self.step, self.evaluated):
            return
        weights: dict[str, dict[str, Tensor]] = {"model": self.model.state_dict()}
        if self.average is not None:
            weights["average"] = self.average.weights
        if buffers := self.objective.state_dict():  # of terms with buffers
            weights["objective"] = buffers
        state = monitor_state | {
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.stepper.scaler.state_dict(),
            "average_updates": self.average.updates if self.average else 0,
            "step": self.step,
            "best": self.best,
            "best_of": self.best_of,
            "evaluated": self.evaluated,
        }
        save_checkpoint(self.out, self.step, weights, state, self._kept)
        self.saved = (self.step, self.evaluated)

    def evaluated_weights(self) -> dict[str, Tensor]:
        """Return the weights that are evaluated and saved at the end: the moving average, if there is one."""
        return self.average.weights if self.average is not None else self.model.state_dict()
