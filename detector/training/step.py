"""One optimiser step: forward, matching, losses, backward, check for non-finite numbers, update.

Losses are divided by the number of objects of the whole step, over ranks and accumulated parts, so that how a
batch is split does not change its gradient. Terms that contrast images with each other are computed by all
ranks together; accumulated parts stay separate. Random numbers (dropout, denoising, the class bank) follow
from (seed, step, rank) only: a resumed run needs no generator state.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from cckt.cache_builder.base.atomic_files import write_bytes
from cckt.detector.config.config import Config
from cckt.detector.data.batch import Batch
from cckt.detector.data.transforms import normalise
from cckt.detector.losses.objective import Objective
from cckt.detector.losses.terms.term import ONE_RANK, Ranks
from cckt.detector.ranks.world import World
from cckt.detector.runs.log import StepTimes
from cckt.detector.students.contract import Student, StudentOutput
from cckt.detector.students.precision import autocast
from cckt.detector.training.optim import MovingAverage, clip_gradients, rate_at, set_rate


@dataclass(frozen=True)
class StepResult:
    """Figures of a step."""

    losses: dict[str, float]
    """Every loss, over all ranks; "total" is minimised, "gradient" is the norm before clipping."""
    rate: float
    """Learning rate of the main group."""
    finite: bool
    """False: a loss or gradient was non-finite, and the weights did not change."""
    overflow: bool
    """Only an fp16 gradient was non-finite: the loss scale is still being adjusted."""
    stop: bool
    """Some rank received a stop signal."""


class Stepper:
    """Takes optimiser steps on one rank.

    student: in training mode. wrapped: the same, wrapped for DDP where there are several ranks. text: (C, D)
    unit base text on the device.
    """

    def __init__(
        self,
        student: Student,
        wrapped: nn.Module,
        objective: Objective,
        text: Tensor,
        config: Config,
        world: World,
        optimizer: torch.optim.Optimizer,
        average: MovingAverage | None,
        steps_per_epoch: int,
    ) -> None:
        self.student, self.model, self.objective, self.text = student, wrapped, objective, text
        self.config, self.world, self.optimizer, self.average = config, world, optimizer, average
        self.steps_per_epoch = steps_per_epoch
        self.times = StepTimes(world.device)
        scaled = config.train.precision == "fp16" and world.device.type == "cuda"
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=scaled)

    def __call__(self, parts: Sequence[Batch], step: int, stop: bool = False) -> StepResult:
        """parts: this rank's micro-batches on the device; step: number of optimiser steps before this one."""
        config = self.config.train
        torch.manual_seed(_mixed(config.seed, step, self.world.rank))
        epoch = step // self.steps_per_epoch
        # Filled on the device: a copy to a GPU waits for all its pending work.
        objects = torch.full((), float(sum(part.objects for part in parts)), device=self.world.device)
        together = self.world.size > 1 and self.objective.needs_all_ranks(epoch)
        if together:
            parts = self._padded_alike(parts)
        ranks: Ranks = self.world if together else ONE_RANK
        counts = {"": objects} | self._counted(parts, epoch, ranks)
        totals = self.world.total(torch.stack(list(counts.values()))).clamp(min=1) / self.world.size
        share, counted = totals[0], dict(zip(counts, totals, strict=True))
        del counted[""]
        tied = self.config.model.class_embedding == "region"
        self.student.region_trained = tied or self.objective.trains_regions(epoch)
        rate = set_rate(self.optimizer, config, rate_at(step, self.steps_per_epoch, config))
        summed: dict[str, Tensor] = {}
        for number, part in enumerate(parts, 1):
            with self._local(number < len(parts)):
                losses = self._losses(part, epoch, share, counted, len(parts), ranks)
                with self.times.part("backward"):
                    self.scaler.scale(losses["total"]).backward()  # type: ignore[no-untyped-call]
            for name, value in losses.items():
                summed[name] = summed.get(name, 0) + value.detach()
        with self.times.part("update"):
            return self._update(summed, rate, stop)

    def _counted(self, parts: Sequence[Batch], epoch: int, ranks: Ranks) -> dict[str, Tensor]:
        """Return the objects of this rank that each term with its own divisor counts, over all parts."""
        found: dict[str, Tensor] = {}
        for part in parts:
            for name, count in self.objective.counted(part.targets, epoch, ranks).items():
                found[name] = found[name] + count if name in found else count
        return found

    def _losses(
        self,
        batch: Batch,
        epoch: int,
        share: Tensor,
        counted: dict[str, Tensor],
        parts: int,
        ranks: Ranks,
    ) -> dict[str, Tensor]:
        with self.times.part("forward"):
            training = self.student.training_inputs(batch.targets, self.text)
            images = normalise(batch.images, batch.padding, self.config.data)
            images = images.contiguous(memory_format=torch.channels_last)
            with autocast(self.config.train.precision, self.world.device):
                output: StudentOutput = self.model(
                    images, batch.padding, self.text, batch.guidance(self.text), training
                )
        with self.times.part("matching"), torch.no_grad():
            pairs = self.student.match(output, batch.targets, self.text)
        with self.times.part("loss"):
            detection = self.student.detection_loss(output, batch.targets, pairs, batch.present, training)
            return dict(
                self.objective(
                    output,
                    pairs,
                    detection,
                    batch.targets,
                    epoch=epoch,
                    divisor=share,
                    counted=counted,
                    parts=parts,
                    ranks=ranks,
                )
            )

    def _padded_alike(self, parts: Sequence[Batch]) -> Sequence[Batch]:
        """Return the parts with targets padded as on the ranks with the most objects and proposals."""
        sizes = [part.targets.boxes.shape[1] for part in parts]
        sizes += [0 if (found := part.targets.proposals) is None else found.boxes.shape[1] for part in parts]
        most = self.world.maximum(sizes)
        return [
            replace(part, targets=part.targets.padded_to(objects, proposals))
            for part, objects, proposals in zip(parts, most[: len(parts)], most[len(parts) :], strict=True)
        ]

    def _update(self, losses: dict[str, Tensor], rate: float, stop: bool) -> StepResult:
        self.scaler.unscale_(self.optimizer)
        norm = clip_gradients(self.optimizer, self.config.train.clip_norm)
        # One transfer per step. Sums over ranks give every rank the same decision.
        figures = torch.stack([*losses.values(), norm.detach(), norm.new_full((), float(stop))]).float()
        values = self.world.total(figures).tolist()
        named = {name: value / self.world.size for name, value in zip(losses, values, strict=False)}
        named["gradient"] = values[-2] / self.world.size
        finite = all(map(math.isfinite, named.values()))
        overflow = self.scaler.is_enabled() and not finite and all(map(math.isfinite, values[:-2]))
        if finite:
            self.scaler.step(self.optimizer)
            if self.average is not None:
                self.average.update(self.student)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return StepResult(named, rate, finite, overflow, values[-1] > 0)

    def _local(self, more: bool) -> contextlib.AbstractContextManager[object]:
        """Exchange gradients between ranks only with the last part of a step."""
        if more and isinstance(self.model, nn.parallel.DistributedDataParallel):
            return self.model.no_sync()
        return contextlib.nullcontext()


def _mixed(*key: int) -> int:
    """Return a seed that depends on every part of the key."""
    mixed = 0
    for number in key:
        mixed = (mixed ^ number) * 0x9E3779B97F4A7C15 % 2**63
        mixed ^= mixed >> 29
    return mixed


def save_batch(run: Path, step: int, parts: Sequence[Batch], image_ids: Sequence[int]) -> Path:
    """Write the images and targets of a step with non-finite losses, for inspection.

    Returns nonfinite-STEP-PID.safetensors in the run folder: images.K, boxes.K, concepts.K, present.K, and
    NAME.K and NAME_valid.K per name of teacher rows, for part K; image ids and objects per image are in the
    metadata.
    """
    tensors: dict[str, Tensor] = {}
    for k, part in enumerate(parts):
        tensors |= {f"images.{k}": part.images, f"present.{k}": part.present}
        tensors |= {f"boxes.{k}": part.targets.boxes, f"concepts.{k}": part.targets.concepts}
        for name, rows in part.targets.teacher.items():
            tensors |= {f"{name}.{k}": rows.values, f"{name}_valid.{k}": rows.valid}
    counts = [count for part in parts for count in part.targets.counts]
    facts = {"image_ids": json.dumps(list(image_ids)), "objects": json.dumps(counts)}
    path = run / f"nonfinite-{step:08d}-{os.getpid()}.safetensors"
    stored = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    write_bytes(path, safetensors.torch.save(stored, facts))
    return path
