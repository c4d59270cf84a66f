"""Process group of the ranks of a run, and their collectives.

Rank and size come from the variables of the launcher: torchrun (RANK, WORLD_SIZE, LOCAL_RANK) or srun
(SLURM_*). Without a launcher there is one rank, and nothing here communicates. If a rank dies,
`rank_death.py` ends the others.
"""

from __future__ import annotations

import datetime
import itertools
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from cckt.cache_builder.base.device import pick_device
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.untrusted.text import natural, parse_json
from cckt.detector.ranks.rank_death import CONNECT_S, Address, RankMonitor

T = TypeVar("T")

RENDEZVOUS_TIMEOUT = datetime.timedelta(minutes=5)
"""Time limit for all ranks to start: another node may still be loading its software."""

COLLECTIVE_TIMEOUT = datetime.timedelta(minutes=30)
"""Time limit of a collective among living ranks: longer than rank 0 takes to score detections."""

_ADDRESS = "rank-monitor"
"""Key of the store under which rank 0 tells where its monitor listens."""

_JOINED = itertools.count()
"""Numbers of the groups that this process joins; every rank joins the same ones."""


@dataclass(frozen=True)
class World:
    """One rank among `size`, with its device. Only rank 0 writes files."""

    rank: int
    size: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this rank writes files and reports."""
        return self.rank == 0

    def total(self, values: Tensor) -> Tensor:
        """Return the sum of `values` over all ranks, on every rank; `values` is changed in info."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def maximum(self, numbers: Sequence[int]) -> list[int]:
        """Return the maximum of each number over all ranks, on every rank."""
        if self.size == 1:
            return list(numbers)
        values = torch.tensor(numbers, dtype=torch.int64, device=self.device)
        dist.all_reduce(values, dist.ReduceOp.MAX)
        return list(map(int, values.tolist()))

    def gather_rows(self, rows: Tensor) -> Tensor:
        """Concatenate the rows of all ranks: (n, ...) -> (size n, ...), in the order of ranks.

        Every rank must pass the same shape. Gradients from all ranks flow back to the rank that owns a row.
        """
        return rows if self.size == 1 else cast(Tensor, _GatherRows.apply(rows, self.rank, self.size))

    def wait(self) -> None:
        """Wait until every rank has called this."""
        if self.size > 1:
            dist.barrier()

    def gather(self, value: T) -> list[T] | None:
        """Return the values of all ranks, in the order of ranks, on rank 0; None on the others."""
        if self.size == 1:
            return [value]
        found: list[Any] | None = [None] * self.size if self.first else None
        dist.gather_object(value, found)
        return found

    def share(self, value: T) -> T:
        """Return rank 0's `value` on every rank."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box)
        return box[0]

    def align(self, tensors: Iterable[Tensor]) -> None:
        """Copy rank 0's values into the tensors of every rank, in place; shapes must agree."""
        if self.size > 1:
            for tensor in tensors:
                whole = tensor.detach().contiguous()
                dist.broadcast(whole, 0)
                tensor.detach().copy_(whole)

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return the model with gradients averaged over ranks.

        Every step must give every parameter a gradient, even if it is zero: unused ones are not detected.
        """
        if self.size == 1:
            return model
        devices = [self.device.index] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(model, devices, gradient_as_bucket_view=True)


class _GatherRows(torch.autograd.Function):
    """All-gather in the forward pass; in the backward pass, this rank's slice of the summed gradients."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, rank: int, size: int) -> Tensor:
        ctx.rank, ctx.size = rank, size
        sent = rows.contiguous()
        sent = sent.to(torch.uint8) if sent.dtype == torch.bool else sent
        every = [torch.empty_like(sent) for _ in range(size)]
        dist.all_gather(every, sent)
        return torch.cat(every).to(rows.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        whole = gradients[0].clone(memory_format=torch.contiguous_format)  # the input may be shared
        dist.all_reduce(whole)
        return whole.chunk(ctx.size)[ctx.rank], None, None


@dataclass(frozen=True)
class LaunchInfo:
    """Variables of the launcher."""

    rank: int
    size: int
    """Number of ranks."""
    local_rank: int
    """Number of this rank on its machine."""
    address: str
    """Host name of rank 0."""
    port: int
    """Port at which rank 0 listens."""


def read_launch_info(environment: Mapping[str, str]) -> LaunchInfo | None:
    """Read the variables of torchrun or srun; None without a launcher.

    Raises UserError for values that make no sense.
    """
    if "RANK" in environment and "WORLD_SIZE" in environment:
        info = LaunchInfo(
            _number(environment, "RANK"),
            _number(environment, "WORLD_SIZE"),
            _number(environment, "LOCAL_RANK", 0),
            environment.get("MASTER_ADDR", "127.0.0.1"),
            _number(environment, "MASTER_PORT", 29500),
        )
    elif _number(environment, "SLURM_STEP_NUM_TASKS", 1) > 1:
        job = _number(environment, "SLURM_JOB_ID", 0)
        info = LaunchInfo(
            _number(environment, "SLURM_PROCID"),
            _number(environment, "SLURM_STEP_NUM_TASKS"),
            _number(environment, "SLURM_LOCALID", 0),
            environment.get("MASTER_ADDR", first_host(environment.get("SLURM_STEP_NODELIST", "127.0.0.1"))),
            _number(environment, "MASTER_PORT", 20000 + job % 20000),
        )
    else:
        return None
    if not 0 <= info.rank < info.size:
        raise UserError(
            f"the launcher started rank {info.rank} of {info.size}, expected 0 to {info.size - 1}; "
            "start it with torchrun or srun."
        )
    return info


def _number(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    """Return the whole number in a variable. Raises UserError if it holds anything else."""
    text = environment.get(name, "" if default is None else str(default))
    number = natural(text)
    if number is None:
        raise UserError(
            f"{name}: found {text!r} in the environment, expected the whole number that torchrun or srun "
            "sets; unset it, or start with one of them."
        )
    return number


def first_host(nodes: str) -> str:
    """Return the first host of a Slurm node list: "gpu[03-05,09],login1" -> "gpu03"."""
    first = re.match(r"[^,\[]+(\[[^\]]+\])?[^,]*", nodes)
    host = first.group(0) if first else nodes
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", host)


def _rendezvous_store(info: LaunchInfo) -> Any:
    """Return the store of the process group; UserError if not all ranks connect within the time limit."""
    try:
        url = f"tcp://{info.address}:{info.port}"
        store, _, _ = next(rendezvous(url, info.rank, info.size, timeout=RENDEZVOUS_TIMEOUT))
    except (RuntimeError, ValueError) as error:  # torch raises these for time-outs and socket errors
        raise UserError(
            f"rank {info.rank} of {info.size} did not meet all other ranks at {info.address}:{info.port} "
            f"within {RENDEZVOUS_TIMEOUT.seconds} s; read their output, and check that MASTER_ADDR and "
            "MASTER_PORT name an address that all of them can reach."
        ) from error
    store.set_timeout(COLLECTIVE_TIMEOUT)
    # The store may be the launcher's and outlive the group: the next group of these processes has other keys.
    return PrefixStore(f"cckt-{next(_JOINED)}", store)


@contextmanager
def joined(device: str, option: str = "--device") -> Iterator[World]:
    """Join the process group for the block; a nested call reuses the outer one.

    device: name of a device or "auto"; option: the option that set it, for messages. CUDA ranks communicate
    by NCCL, others by gloo. Raises UserError when another rank dies; a rank that hangs in a collective cannot
    raise, so its process is ended (see `rank_death.py`).
    """
    info = read_launch_info(os.environ)
    chosen = pick_device(device, 0 if info is None else info.local_rank, option)
    if chosen.type == "cuda":  # kernels, events and pinned memory use the current device
        torch.cuda.set_device(chosen)
    if info is None or info.size == 1:
        yield World(0, 1, chosen)
        return
    if dist.is_initialized():
        yield World(info.rank, info.size, chosen)
        return
    store = _rendezvous_store(info)
    with _all_met(info):
        monitor = RankMonitor(info.rank, info.size, info.address, partial(_shared_address, store, info))
    with monitor, ExitStack() as stack:
        try:
            with _all_met(info, monitor):
                dist.init_process_group(
                    "nccl" if chosen.type == "cuda" else "gloo",
                    store=store,
                    rank=info.rank,
                    world_size=info.size,
                    timeout=COLLECTIVE_TIMEOUT,
                )
            stack.callback(dist.destroy_process_group)
            yield World(info.rank, info.size, chosen)
        except RuntimeError as error:  # raised by collectives
            monitor.raise_if_lost(error)
            raise
        finally:
            stack.close()  # before the others hear that this rank has finished


def _shared_address(store: Any, info: LaunchInfo, address: Address) -> Address:
    """Return rank 0's `address` on every rank, by the store, before there is a process group."""
    if info.rank == 0:
        store.set(_ADDRESS, json.dumps(address))
        return address
    store.wait([_ADDRESS], datetime.timedelta(seconds=CONNECT_S))
    host, port, token = parse_json(store.get(_ADDRESS).decode())
    return host, port, token


@contextmanager
def _all_met(info: LaunchInfo, monitor: RankMonitor | None = None) -> Iterator[None]:
    """Raise UserError for an error of the start: that of the monitor, if it knows which rank died."""
    try:
        yield
    except RuntimeError as error:
        if monitor is not None:
            monitor.raise_if_lost(error)
        raise UserError(
            f"rank {info.rank} of {info.size} lost another rank at the start ({type(error).__name__}); read "
            "the output of the other ranks, then start all ranks again."
        ) from error
