"""One optimiser step: forward, matching, losses, backward, guard, update.

Losses are divided by the number of objects of the whole step, over ranks and accumulated parts, so that how
a batch is cut up does not change its gradient; where photos are contrasted with one another, ranks do so
together, parts each by itself. Random numbers (dropout, the class bank) follow from (seed, step, rank) alone:
a resumed run needs no generator's state.
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
from cckt.detector.losses.contrast import ALONE, Ranks, spans_the_batch
from cckt.detector.losses.matcher import match
from cckt.detector.losses.objective import compute_losses
from cckt.detector.ranks.world import World
from cckt.detector.runs.log import StepTimes
from cckt.detector.students.contract import DetectorOutput, TrainingQueries, widened
from cckt.detector.students.deformable_detr.denoise import noised_queries
from cckt.detector.students.precision import autocast
from cckt.detector.training.optim import MovingAverage, clip_gradients, rate_at, set_rate


@dataclass(frozen=True)
class StepResult:
    """What a step found."""

    losses: dict[str, float]
    """Every loss, over all ranks; "total" is what was minimised, "gradient" the norm before clipping."""
    rate: float
    """Learning rate of the main group."""
    finite: bool
    """False: some number was none, and the weights were left as they were."""
    overflow: bool
    """Not finite, and it is fp16's gradient alone: its scale is still being found."""
    stop: bool
    """Some rank was asked to stop."""


class Stepper:
    """Takes optimiser steps on one rank.

    model: the wrapped detector in training mode; text: (C, D) unit base text on the device.
    """

    def __init__(
        self,
        model: nn.Module,
        text: Tensor,
        config: Config,
        world: World,
        optimizer: torch.optim.Optimizer,
        average: MovingAverage | None,
        steps_per_epoch: int,
    ) -> None:
        self.model, self.text, self.config, self.world = model, text, config, world
        self.optimizer, self.average, self.steps_per_epoch = optimizer, average, steps_per_epoch
        self.times = StepTimes(world.device)
        self.together: Ranks = world if world.size > 1 and spans_the_batch(config) else ALONE
        scaled = config.train.precision == "fp16" and world.device.type == "cuda"
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=scaled)

    def __call__(self, parts: Sequence[Batch], step: int, stop: bool = False) -> StepResult:
        """parts: this rank's micro-batches on the device; step: optimiser steps done before this one."""
        config = self.config.train
        torch.manual_seed(_mixed(config.seed, step, self.world.rank))
        contrast = step // self.steps_per_epoch >= self.config.loss.contrast_from_epoch
        # Filled on the device: a copy to a GPU, like a look at one, waits for all it has still to do.
        objects = torch.full((), float(sum(part.objects for part in parts)), device=self.world.device)
        share = self.world.total(objects).clamp(min=1) / self.world.size
        if contrast:
            parts = self._alike(parts)
        rate = set_rate(self.optimizer, config, rate_at(step, self.steps_per_epoch, config))
        summed: dict[str, Tensor] = {}
        for number, part in enumerate(parts, 1):
            with self._local(number < len(parts)):
                losses = self._losses(part, contrast, share)
                with self.times.part("backward"):
                    self.scaler.scale(losses["total"]).backward()  # type: ignore[no-untyped-call]
            for name, value in losses.items():
                summed[name] = summed.get(name, 0) + value.detach()
        with self.times.part("update"):
            return self._update(summed, rate, stop)

    def _losses(self, batch: Batch, contrast: bool, share: Tensor) -> dict[str, Tensor]:
        with self.times.part("forward"):
            beside = self._beside(batch)
            images = normalise(batch.images, batch.padding, self.config.data)
            images = images.contiguous(memory_format=torch.channels_last)
            with autocast(self.config.train.precision, self.world.device):
                output: DetectorOutput = self.model(
                    images, batch.padding, self.text, batch.guidance(self.text), *beside
                )
        with self.times.part("matching"), torch.no_grad():
            matches = match(
                output,
                batch.targets,
                self.text,
                self.config.matcher,
                self.config.loss.tau,
                self.config.train.one_to_many,
            )
        with self.times.part("loss"):
            return compute_losses(
                output,
                batch.targets,
                matches,
                self.config.loss,
                contrast=contrast,
                world_objects=share,
                present=batch.present,
                noised=beside[0].noised if beside else None,
                ranks=self.together,
            )

    def _alike(self, parts: Sequence[Batch]) -> Sequence[Batch]:
        """The parts with targets padded as on the rank that has most, where ranks contrast together."""
        if self.together is ALONE:
            return parts
        most = self.world.maximum([part.targets.boxes.shape[1] for part in parts])
        return [
            replace(part, targets=widened(part.targets, objects))
            for part, objects in zip(parts, most, strict=True)
        ]

    def _beside(self, batch: Batch) -> list[TrainingQueries]:
        """What is asked beside the queries, as further arguments of the model: none of it, by default."""
        config = self.config.train
        if not (config.denoise_groups or config.one_to_many):
            return []
        queries = self.config.model.queries
        noised = noised_queries(batch.targets, self.text, config, queries) if config.denoise_groups else None
        return [TrainingQueries(noised, alone=config.one_to_many > 0)]

    def _update(self, losses: dict[str, Tensor], rate: float, stop: bool) -> StepResult:
        self.scaler.unscale_(self.optimizer)
        norm = clip_gradients(self.optimizer, self.config.train.clip_norm)
        # One transfer a step. The sums over ranks make every rank decide alike.
        figures = torch.stack([*losses.values(), norm.detach(), norm.new_full((), float(stop))]).float()
        values = self.world.total(figures).tolist()
        named = {name: value / self.world.size for name, value in zip(losses, values, strict=False)}
        named["gradient"] = values[-2] / self.world.size
        finite = all(map(math.isfinite, named.values()))
        overflow = self.scaler.is_enabled() and not finite and all(map(math.isfinite, values[:-2]))
        if finite:
            self.scaler.step(self.optimizer)
            if self.average is not None:
                self.average.update(_bare(self.model))
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return StepResult(named, rate, finite, overflow, values[-1] > 0)

    def _local(self, more: bool) -> contextlib.AbstractContextManager[object]:
        """Ranks exchange gradients only with the last part of a step."""
        if more and isinstance(self.model, nn.parallel.DistributedDataParallel):
            return self.model.no_sync()
        return contextlib.nullcontext()


def _bare(model: nn.Module) -> nn.Module:
    return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model


def _mixed(*key: int) -> int:
    """A seed that differs in every part of the key."""
    mixed = 0
    for number in key:
        mixed = (mixed ^ number) * 0x9E3779B97F4A7C15 % 2**63
        mixed ^= mixed >> 29
    return mixed


def save_batch(run: Path, step: int, parts: Sequence[Batch], image_ids: Sequence[int]) -> Path:
    """Write the photos and targets of a step that gave no number, to be looked at.

    Returns nonfinite-STEP-PID.safetensors in the run folder: images.K, boxes.K, concepts.K, embeddings.K,
    valid.K and present.K for part K; image ids and objects a photo are in the metadata.
    """
    tensors: dict[str, Tensor] = {}
    for k, part in enumerate(parts):
        tensors |= {f"images.{k}": part.images, f"present.{k}": part.present}
        for name in ("boxes", "concepts", "embeddings", "valid"):
            tensors[f"{name}.{k}"] = getattr(part.targets, name)
    counts = [count for part in parts for count in part.targets.counts]
    facts = {"image_ids": json.dumps(list(image_ids)), "objects": json.dumps(counts)}
    path = run / f"nonfinite-{step:08d}-{os.getpid()}.safetensors"
    stored = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    write_bytes(path, safetensors.torch.save(stored, facts))
    return path
