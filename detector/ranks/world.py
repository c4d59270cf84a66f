"""Ranks: who am I, how many are we, and what we tell each other.

The launcher says so: torchrun (RANK, WORLD_SIZE, LOCAL_RANK) or srun (SLURM_*). Without one there is a single
rank and nothing here communicates. `cckt.detector.ranks.rank_death` sees to it that a dead rank ends all.
"""

from __future__ import annotations

import datetime
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

from cckt.cache_builder.base.errors import UserError
from cckt.detector.ranks.rank_death import Lifeline

T = TypeVar("T")

MEETING = datetime.timedelta(minutes=5)
"""How long ranks wait for each other to begin: another node may still be loading its software."""

TIMEOUT = datetime.timedelta(minutes=30)
"""How long a rank waits for the others while they live: longer than rank 0 takes to score detections."""


@dataclass(frozen=True)
class World:
    """One rank among `size`, with the device it computes on. Rank 0 is the one that writes."""

    rank: int
    size: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this rank writes files and reports."""
        return self.rank == 0

    def total(self, values: Tensor) -> Tensor:
        """The sum of `values` over all ranks, on each of them."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def most(self, numbers: Sequence[int]) -> list[int]:
        """The largest of each number over all ranks, on each of them."""
        if self.size == 1:
            return list(numbers)
        values = torch.tensor(numbers, dtype=torch.int64, device=self.device)
        dist.all_reduce(values, dist.ReduceOp.MAX)
        return list(map(int, values.tolist()))

    def beside(self, rows: Tensor) -> Tensor:
        """(n, ...) -> (size n, ...): every rank's rows, of the same shape on each, in the order of ranks.

        Gradients of what any rank makes of them go back to the rank whose rows they are.
        """
        return rows if self.size == 1 else cast(Tensor, _Beside.apply(rows, self.rank, self.size))

    def wait(self) -> None:
        """Until every rank is here."""
        if self.size > 1:
            dist.barrier()

    def gather(self, value: T) -> list[T] | None:
        """Every rank's `value`, in the order of ranks, on rank 0; None on the others."""
        if self.size == 1:
            return [value]
        found: list[Any] | None = [None] * self.size if self.first else None
        dist.gather_object(value, found)
        return found

    def share(self, value: T) -> T:
        """Rank 0's `value` on every rank."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box)
        return box[0]

    def align(self, tensors: Iterable[Tensor]) -> None:
        """Give tensors of the same shapes on every rank rank 0's values, in place."""
        if self.size > 1:
            for tensor in tensors:
                whole = tensor.detach().contiguous()
                dist.broadcast(whole, 0)
                tensor.detach().copy_(whole)

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model with its gradients averaged over ranks.

        Every step must give every parameter a gradient, be it zero: nobody looks for those without one.
        """
        if self.size == 1:
            return model
        devices = [self.device.index] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(model, devices, gradient_as_bucket_view=True)


class _Beside(torch.autograd.Function):
    """Gather forward; backward every rank's slice of the sum of all gradients."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, rank: int, size: int) -> Tensor:
        ctx.rank, ctx.size = rank, size
        sent = rows.contiguous()
        sent = sent.to(torch.uint8) if sent.dtype == torch.bool else sent
        every = [torch.empty_like(sent) for _ in range(size)]
        dist.all_gather(every, sent)
        return torch.cat(every).to(rows.dtype)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None, None]:
        whole = slopes[0].clone(memory_format=torch.contiguous_format)  # others may hold the same tensor
        dist.all_reduce(whole)
        return whole.chunk(ctx.size)[ctx.rank], None, None


def pick_device(name: str, local_rank: int = 0, option: str = "--device") -> torch.device:
    """ "auto" or a device's name -> a device. Raises UserError, which names `option`, for one that is not
    there.
    """
    if name == "auto":
        if torch.cuda.is_available():
            name = f"cuda:{local_rank % torch.cuda.device_count()}"
        else:
            name = "mps" if torch.backends.mps.is_available() else "cpu"
    unknown = UserError(f"{option}: found {name!r}, expected auto, cpu, cuda or mps.")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise unknown from None
    if device.type == "cuda":
        count = torch.cuda.device_count()
        # A scheduler may show each rank its own GPU only, which is then number 0 for all of them.
        index = local_rank % max(count, 1) if device.index is None else device.index
        if index >= count:
            raise UserError(
                f"{option}: found {name!r}, but torch sees {count} CUDA devices here; use auto or cpu, or "
                "install a CUDA build of torch."
            )
        return torch.device("cuda", index)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError(f"{option}: found 'mps', which torch cannot use here; use auto or cpu.")
    if device.type not in ("cpu", "mps"):
        raise unknown
    return device


@dataclass(frozen=True)
class Place:
    """What a launcher says: this rank, all ranks, this rank on its machine, and where rank 0 listens."""

    rank: int
    size: int
    local_rank: int
    address: str
    port: int


def place_of(environment: Mapping[str, str]) -> Place | None:
    """Read torchrun's or srun's variables; None where neither started more than this process."""
    if "RANK" in environment and "WORLD_SIZE" in environment:
        place = Place(
            _number(environment, "RANK"),
            _number(environment, "WORLD_SIZE"),
            _number(environment, "LOCAL_RANK", 0),
            environment.get("MASTER_ADDR", "127.0.0.1"),
            _number(environment, "MASTER_PORT", 29500),
        )
    elif _number(environment, "SLURM_STEP_NUM_TASKS", 1) > 1:
        job = _number(environment, "SLURM_JOB_ID", 0)
        place = Place(
            _number(environment, "SLURM_PROCID"),
            _number(environment, "SLURM_STEP_NUM_TASKS"),
            _number(environment, "SLURM_LOCALID", 0),
            environment.get("MASTER_ADDR", first_host(environment.get("SLURM_STEP_NODELIST", "127.0.0.1"))),
            _number(environment, "MASTER_PORT", 20000 + job % 20000),
        )
    else:
        return None
    if not 0 <= place.rank < place.size:
        raise UserError(
            f"the launcher calls this rank {place.rank} of {place.size}, expected 0 to {place.size - 1}; "
            "start it with torchrun or srun."
        )
    return place


def _number(environment: Mapping[str, str], name: str, usual: int | None = None) -> int:
    text = environment.get(name, "" if usual is None else str(usual))
    if not text.isdecimal():
        raise UserError(
            f"{name}: found {text!r} in the environment, expected the whole number that torchrun or srun "
            "puts there; unset it, or start with one of them."
        )
    return int(text)


def first_host(nodes: str) -> str:
    """The first of Slurm's node list: "gpu[03-05,09],login1" -> "gpu03"."""
    first = re.match(r"[^,\[]+(\[[^\]]+\])?[^,]*", nodes)
    host = first.group(0) if first else nodes
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", host)


def _meeting(place: Place) -> Any:
    """The store that the ranks meet at. Raises UserError where not all of them come within `MEETING`."""
    try:
        where = f"tcp://{place.address}:{place.port}"
        store, _, _ = next(rendezvous(where, place.rank, place.size, timeout=MEETING))
    except (RuntimeError, ValueError) as error:  # time-outs and sockets are of torch's own kinds
        raise UserError(
            f"rank {place.rank} of {place.size} did not meet all others at {place.address}:{place.port} in "
            f"{MEETING.seconds} s; look at what they say, and whether MASTER_ADDR and MASTER_PORT name a "
            "place that all of them can reach."
        ) from error
    store.set_timeout(TIMEOUT)
    return store


@contextmanager
def joined(device: str, option: str = "--device") -> Iterator[World]:
    """This process's place among the ranks, for as long as the block runs; within another such block, its.

    device: as the user's `option` says, "auto" where nobody did. CUDA ranks talk by NCCL, others by gloo.
    Raises UserError when another rank dies; a rank that cannot, because it hangs in a collective, is ended
    (see `cckt.detector.ranks.rank_death`).
    """
    place = place_of(os.environ)
    chosen = pick_device(device, 0 if place is None else place.local_rank, option)
    if chosen.type == "cuda":  # kernels, events and pinned memory go to the current one
        torch.cuda.set_device(chosen)
    if place is None or place.size == 1:
        yield World(0, 1, chosen)
        return
    if dist.is_initialized():
        yield World(place.rank, place.size, chosen)
        return
    dist.init_process_group(
        "nccl" if chosen.type == "cuda" else "gloo",
        store=_meeting(place),
        rank=place.rank,
        world_size=place.size,
        timeout=TIMEOUT,
    )
    world = World(place.rank, place.size, chosen)
    with Lifeline(place.rank, place.size, place.address, world.share) as lifeline:
        try:
            yield world
        except RuntimeError as error:  # as collectives raise
            lifeline.explain(error)
            raise
        finally:
            dist.destroy_process_group()
