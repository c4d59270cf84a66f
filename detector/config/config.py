"""Every option of the detector, its default and its meaning. The defaults are the paper's (METHOD.md).

A config is frozen; a changed one is a new one (`dataclasses.replace`, `apply_overrides`). Checks name the
option to change. Each decision where the paper is silent is a field whose text says what else there is.
"""

from __future__ import annotations

import dataclasses
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from cckt.cache_builder.base.atomic_files import write_bytes
from cckt.cache_builder.base.errors import UserError
from cckt.detector.config.checks import at_least, fraction, require
from cckt.detector.config.dataclass_io import merged, override, to_mapping, toml_text
from cckt.detector.config.inference import InferenceConfig, PriorConfig
from cckt.detector.config.model import LossConfig, MatcherConfig, ModelConfig

__all__ = [
    "Config",
    "DataConfig",
    "InferenceConfig",
    "LossConfig",
    "MatcherConfig",
    "ModelConfig",
    "PriorConfig",
    "TrainConfig",
    "apply_overrides",
    "changed",
    "load_config",
    "save_config",
]


@dataclass(frozen=True)
class DataConfig:
    """Photos on their way into the model."""

    short_sides: tuple[int, ...] = (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)
    """Pixels; training draws one for each photo."""
    max_side: int = 1333
    """Pixels; no side gets longer, in training and evaluation."""
    eval_short_side: int = 800
    """Pixels, in evaluation and prediction."""
    flip: float = 0.5
    """Probability of a mirror image."""
    flipped_crops: Literal["auto", "always", "never"] = "auto"
    """Distil a mirrored photo from the mirrored crops, column crops-flipped: "auto" where it is there."""
    jittered_crops: Literal["auto", "always", "never"] = "auto"
    """Distil an object from one of its views at random: crops, crops-jitter-1 ...; "auto" where they are."""
    random_crop: bool = True
    """Half of the photos are resized, cropped at random (384 to 600 px) and resized again, as in DETR."""
    crop_keeps_shape: bool = False
    """True cuts windows of the photo's own shape: photos of one size stay so, and a batch has no padding."""
    teacher: str = ""
    """Label of the teacher to learn from, where several teachers' columns lie side by side: "vitl14" reads
    text-vitl14, crops-vitl14 and priors/clip-vitl14; "" reads the first teacher's, which have no label."""
    workers: int = 4
    """Processes that read photos; 0 reads in the training process."""
    cache_photos: int = 2048
    """MiB. Where all photos, decoded, fit, they stay in memory and no worker is needed; 0 never does."""
    decode: Literal["cpu", "cuda"] = "cpu"
    """Who decodes and sizes training JPEGs: the workers, or the GPU (nvJPEG), where the workers are too few
    to keep it busy. Photos that fit in memory are always decoded on the CPU."""
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    """Taken from each channel (RGB in [0, 1])."""
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    """Then divided by."""

    def __post_init__(self) -> None:
        require(
            len(self.short_sides) > 0 and min(self.short_sides) > 0,
            "data.short_sides",
            self.short_sides,
            "one or more sizes in pixels",
        )
        at_least("data", self, 1, "eval_short_side")
        require(
            self.max_side >= max(self.short_sides),
            "data.max_side",
            self.max_side,
            "at least the largest short side",
        )
        fraction("data", self, "flip")
        require(
            re.fullmatch("[a-z0-9_]*", self.teacher) is not None,
            "data.teacher",
            self.teacher,
            "the label of a teacher's columns: lower-case letters, digits and _",
        )
        at_least("data", self, 0, "workers", "cache_photos")
        for name in ("mean", "std"):
            require(len(getattr(self, name)) == 3, f"data.{name}", getattr(self, name), "three numbers")
        require(min(self.std) > 0, "data.std", self.std, "numbers above 0")


@dataclass(frozen=True)
class TrainConfig:
    """The run (METHOD.md section 5, Schedule)."""

    epochs: int = 36
    """Passes over the photos."""
    batch: int = 12
    """Photos a step, over all ranks and accumulated parts."""
    accumulate: int = 1
    """Parts a step is computed in, to save memory."""
    lr: float = 1e-4
    """Learning rate of AdamW."""
    backbone_lr_factor: float = 0.1
    """Times lr, for the backbone."""
    sampling_lr_factor: float = 0.1
    """Times lr, for sampling offsets and reference points."""
    weight_decay: float = 1e-4
    """Of AdamW."""
    clip_norm: float = 0.1
    """Largest gradient norm; 0 does not clip."""
    schedule: Literal["step", "cosine"] = "step"
    """"step": lr_drop_factor from lr_drop_epoch on; "cosine": down to 0 over the run."""
    lr_drop_epoch: int = 31
    """First epoch (counted from 0) of the lower rate."""
    lr_drop_factor: float = 0.1
    """Times lr, from lr_drop_epoch on."""
    warmup_steps: int = 0
    """Steps of a linear climb to lr."""
    seed: int = 0
    """Of weights, order and augmentation."""
    device: str = "auto"
    """"auto", "cpu", "cuda", "cuda:1", "mps"."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Of the network; box and contrastive arithmetic stay fp32."""
    compile: bool = False
    """torch.compile the network: minutes at the start, and again for photos of other shapes; then faster on
    GPUs. On CPUs it wants a C++ compiler."""
    checkpoint_activations: bool = False
    """Keep only what enters each transformer layer and compute the rest again in the backward pass: less
    memory, a third more work, the same gradients."""
    ema_decay: float = 0.0
    """Moving average of the weights, which is then what is evaluated and saved; 0 has none."""
    guidance_drop: float = 0.0
    """Guidance noise, beyond the paper: probability that a present concept is withheld."""
    guidance_add: float = 0.0
    """Guidance noise: expected number of absent concepts added to a photo."""
    guidance_none: float = 0.0
    """Guidance noise: probability that a photo gets no guidance at all."""
    guidance_priors: float = 0.0
    """Guidance as at test, beyond the paper: probability that a photo is guided by its cached priors (the
    column of prior.source, at prior.rho and prior.limit, base concepts only) instead of its annotations."""
    guidance_order: Literal["shuffled", "row"] = "shuffled"
    """Decision. The order in which present concepts are dealt to the queries in training: drawn anew for each
    photo, or by concept row. At test it is by likelihood, which no row order resembles."""
    denoise_groups: int = 0
    """Groups of denoising queries (deformable_detr/denoise.py), beyond the paper; 0: none. Where a batch has
    many objects there are fewer groups, so that the denoising queries do not outnumber the others. Needs
    model.reference encoder or guided."""
    denoise_box_noise: float = 0.4
    """How far a side of a fitting denoising query's box moves at most, in halves of the box's width or
    height; those of a query that does not fit move up to twice that, and never less than this."""
    denoise_wrong_words: float = 0.2
    """Of the denoising queries that do not fit, the share with a near box and a wrong word; the others have
    the right word and a far box."""
    one_to_many: int = 0
    """Beyond the paper: how many queries each object gets in a second matching, over copies of the queries
    that do not see each other (so that nothing keeps them from finding the same object); 0 has none."""
    deterministic: bool = False
    """On a GPU too, kernels whose results do not vary from run to run (slower); on a CPU they never do."""
    log_every: int = 20
    """Steps between lines of the log; the figures are means over them."""
    checkpoint_every: int = 1000
    """Steps between checkpoints; there is one more at each evaluation, at the end, and on a signal."""
    keep_checkpoints: int = 2
    """Newest checkpoints kept."""
    evaluate_every: int = 0
    """Epochs between evaluations, beside the one at the end; 0 has only that."""
    best_metric: str = "ap50_all"
    """The figure whose best evaluation is kept as best.safetensors."""
    nonfinite_limit: int = 10
    """Steps in a row with a loss or gradient that is no number before the run stops; each is skipped."""
    spike_factor: float = 10.0
    """A step is logged as a spike, with its photos, where the loss or the gradient's norm lies so many
    deviations (1.4826 times the median absolute one) above the median of the steps before; 0 logs none."""
    wandb_project: str = ""
    """Also log to this project of Weights & Biases (pip install 'cckt[wandb]'); "" does not."""

    def __post_init__(self) -> None:
        at_least("train", self, 1, "epochs", "batch", "accumulate", "log_every", "checkpoint_every")
        at_least("train", self, 1, "keep_checkpoints", "nonfinite_limit")
        at_least("train", self, 0, "evaluate_every", "spike_factor")
        at_least(
            "train", self, 0, "weight_decay", "clip_norm", "warmup_steps", "lr_drop_epoch", "guidance_add"
        )
        at_least("train", self, 0, "backbone_lr_factor", "sampling_lr_factor", "lr_drop_factor")
        require(self.lr > 0, "train.lr", self.lr, "a number above 0")
        at_least("train", self, 0, "denoise_groups", "one_to_many")
        fraction("train", self, "denoise_box_noise", "denoise_wrong_words")
        require(0 <= self.ema_decay < 1, "train.ema_decay", self.ema_decay, "a number from 0 to below 1")
        fraction("train", self, "guidance_drop", "guidance_none", "guidance_priors")
        require(
            self.batch % self.accumulate == 0,
            "train.accumulate",
            self.accumulate,
            f"a divisor of batch {self.batch}",
        )


@dataclass(frozen=True)
class Config:
    """All of it; a recipe is a function that returns one."""

    recipe: str = "coco-48-17-r50"
    """The recipe it started from."""
    model: ModelConfig = field(default_factory=ModelConfig)
    matcher: MatcherConfig = field(default_factory=MatcherConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    prior: PriorConfig = field(default_factory=PriorConfig)
    inference: InferenceConfig = field(default_factory=InferenceConfig)

    def __post_init__(self) -> None:
        groups = self.train.denoise_groups
        require(
            groups == 0 or self.model.reference != "learned",
            "train.denoise_groups",
            groups,
            "0 with model.reference learned, whose queries begin at points and not at boxes",
        )

    @property
    def heeds_priors(self) -> bool:
        """Whether training reads a column of priors, of the photos that it trains on."""
        return self.model.guidance and self.train.guidance_priors > 0

    def to_dict(self) -> dict[str, Any]:
        """Nested dicts of plain JSON values."""
        return to_mapping(self)

    @staticmethod
    def from_dict(values: Mapping[str, Any], where: str = "config") -> Config:
        """The inverse of `to_dict`; options left out have their defaults."""
        return merged(Config(), values, where)

    def to_toml(self) -> str:
        """TOML that `load_config` reads back the same."""
        return toml_text(self.to_dict())


def apply_overrides(config: Config, assignments: Iterable[str], where: str = "--set") -> Config:
    """`["train.epochs=12", "model.strides=4,8,16"]` laid over a config, typed.

    Raises UserError for an unknown option (naming the nearest), a value of another type, or one out of range;
    `where` says in it who gave them.
    """
    return override(config, assignments, where)


def load_config(path: Path | str, base: Config | None = None) -> Config:
    """A TOML file laid over `base` (the defaults if None). Raises UserError naming the file."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            values = tomllib.load(file)
    except FileNotFoundError:
        raise UserError(f"--config {path}: no such file, expected a TOML file of options.") from None
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(
            f"--config {path}: found no readable TOML ({error}), expected sections of options."
        ) from None
    return merged(base if base is not None else Config(), values, str(path))


def save_config(config: Config, path: Path | str) -> None:
    """Write TOML; the file appears whole, by rename."""
    write_bytes(Path(path), config.to_toml().encode())


def changed(config: Config, section: str, **values: Any) -> Config:
    """A copy with options of one section replaced: `changed(config, "train", epochs=12)`."""
    part = dataclasses.replace(getattr(config, section), **values)
    return dataclasses.replace(config, **{section: part})
