"""Options of a training run: schedule, optimiser, precision, checkpoints, logging."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cckt.detector.config.checks import at_least, fraction, require

Precision = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class TrainConfig:
    """Schedule, optimiser and bookkeeping of a run (docs/method/cckt_det.md, section 7)."""

    epochs: int = 36
    """Passes over the photos."""
    batch: int = 12
    """Photos per step, over all ranks and accumulated parts."""
    accumulate: int = 1
    """Parts in which a step is computed, to save memory."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """AdamW, as in DETR; or SGD with momentum, as in Faster R-CNN."""
    lr: float = 1e-4
    """Learning rate of the optimiser."""
    momentum: float = 0.9
    """Momentum of SGD; AdamW has none."""
    backbone_lr_factor: float = 0.1
    """Factor on lr for the backbone."""
    sampling_lr_factor: float = 0.1
    """Factor on lr for sampling offsets and reference points."""
    weight_decay: float = 1e-4
    """Weight decay of the optimiser."""
    clip_norm: float = 0.1
    """Largest gradient norm; 0 turns clipping off."""
    schedule: Literal["step", "cosine"] = "step"
    """"step": lr_drop_factor from lr_drop_epoch on; "cosine": down to 0 over the run (eq. 23)."""
    lr_drop_epoch: int = 31
    """First epoch (counted from 0) with the lower rate."""
    lr_drop_factor: float = 0.1
    """Factor on lr from lr_drop_epoch on."""
    lr_second_drop_epoch: int = 0
    """First epoch with lr_drop_factor twice; 0 has no second drop."""
    warmup_steps: int = 0
    """Steps of linear warm-up to lr."""
    warmup_ratio: float = 0.0
    """Factor on lr in the first step of the warm-up (mmdetection: 1e-3); 0: 1 / (warmup_steps + 1)."""
    seed: int = 0
    """Seed of the initial weights, the order of photos and the augmentation."""
    device: str = "auto"
    """"auto", "cpu", "cuda", "cuda:1" or "mps"."""
    precision: Precision = "fp32"
    """Precision of the network; boxes and contrastive losses stay in fp32. A device that would emulate it
    computes in fp32, in training and afterwards."""
    compile: bool = False
    """Run torch.compile on the network: minutes at the start, and again for each new image shape; faster on
    GPUs afterwards. On CPUs it needs a C++ compiler."""
    checkpoint_activations: bool = False
    """Keep only the inputs of each transformer layer and recompute the rest in the backward pass: less
    memory, a third more work, the same gradients."""
    ema_decay: float = 0.0
    """Decay of the moving average of the weights, which is then evaluated and saved; 0 turns it off."""
    deterministic: bool = False
    """Use deterministic kernels on a GPU too (slower); CPU kernels are always deterministic."""
    log_every: int = 20
    """Steps between log lines; a line holds means over these steps."""
    checkpoint_every: int = 1000
    """Steps between checkpoints; each evaluation, the end and a signal write one more."""
    keep_checkpoints: int = 2
    """Number of newest checkpoints to keep."""
    evaluate_every: int = 0
    """Epochs between evaluations, besides the one at the end; 0 evaluates only at the end."""
    best_metric: str = "ap50_all"
    """Metric whose best evaluation is kept as best.safetensors."""
    nonfinite_limit: int = 10
    """Consecutive steps with a non-finite loss or gradient after which the run stops; each such step is
    skipped."""
    spike_factor: float = 10.0
    """A step is logged as a spike, with its photos, if its loss or gradient norm is more than this many
    deviations (1.4826 times the median absolute deviation) above the median of the previous steps; 0 logs
    none."""
    wandb_project: str = ""
    """Project of Weights & Biases to log to as well (pip install 'cckt[wandb]'); "" logs to none."""

    def __post_init__(self) -> None:
        at_least("train", self, 1, "epochs", "batch", "accumulate", "log_every", "checkpoint_every")
        at_least("train", self, 1, "keep_checkpoints", "nonfinite_limit")
        at_least("train", self, 0, "evaluate_every", "spike_factor")
        at_least("train", self, 0, "weight_decay", "clip_norm", "warmup_steps", "lr_drop_epoch")
        at_least("train", self, 0, "lr_second_drop_epoch")
        fraction("train", self, "warmup_ratio")
        require(0 <= self.momentum < 1, "train.momentum", self.momentum, "a number from 0 to below 1")
        at_least("train", self, 0, "backbone_lr_factor", "sampling_lr_factor", "lr_drop_factor")
        require(self.lr > 0, "train.lr", self.lr, "a number above 0")
        require(0 <= self.ema_decay < 1, "train.ema_decay", self.ema_decay, "a number from 0 to below 1")
        require(
            self.batch % self.accumulate == 0,
            "train.accumulate",
            self.accumulate,
            f"a divisor of batch {self.batch}",
        )
