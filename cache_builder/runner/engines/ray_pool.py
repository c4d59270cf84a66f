"""Actors of a Ray cluster: where they can be placed, how they begin, which are lost."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.runner.engines.ray_actor import Worker

MOST_CPUS = 4
"""Default number of cores of an actor, on nodes with more."""

AT_ONCE = 16
"""Calls that an actor takes at the same time; each waits for a unit."""

MOST_LOST = 3
"""Workers that may end in a row before any of them begins."""


@dataclass(frozen=True)
class Placement:
    """What an actor needs, and for how many of them the nodes that are alive have room."""

    cpus: int
    gpus: int
    room: int


def placement(nodes: Sequence[Mapping[str, Any]], device: str, cpus: int | None) -> Placement:
    """Return the placement of actors on nodes, as `ray.nodes()` lists them.

    device: "auto" places one actor on each GPU if there is any, and leaves nodes without a GPU alone, because
    their floats would differ; without a GPU, and with "cpu", actors are placed by cores. cpus: cores of an
    actor; None: up to 4 of the smallest node, or a GPU's share of the cores of its node.
    """
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    with_gpu = [one for one in alive if one.get("GPU", 0) >= 1]
    gpus = int(device.startswith("cuda") or (device == "auto" and bool(with_gpu)))
    usable = with_gpu if gpus else [one for one in alive if one.get("CPU", 0) >= 1]
    shares = [int(one.get("CPU", 0)) // (int(one["GPU"]) if gpus else 1) for one in usable]
    each = cpus or max(1, min([MOST_CPUS, *shares]))
    rooms = [int(one.get("CPU", 0)) // each for one in usable]
    if gpus:
        rooms = [min(room, int(one["GPU"])) for room, one in zip(rooms, usable, strict=True)]
    return Placement(each, gpus, sum(rooms))


@dataclass(eq=False)
class Actor:
    """One actor as the driver sees it."""

    handle: Any
    opening: Any = None
    """The pending answer of `open` or `stage`."""
    stage: str | None = None
    """The stage in which it takes units."""
    units: dict[Any, tuple[int, float]] = field(default_factory=dict)
    """Pending answer -> (unit, when it was assigned)."""


class ActorPool:
    """The actors of one job; a context that ends them. See `RayEngine` for the parameters."""

    def __init__(self, ray: Any, job: Mapping[str, Any], actors: int | None, cpus: int | None, device: str):
        self.actors: list[Actor] = []
        self._ray, self._job, self._most, self._cpus, self._device = ray, job, actors, cpus, device
        self._looked = -1e9
        self._placement = Placement(1, 0, 0)
        self._lost_early = 0

    def __enter__(self) -> ActorPool:
        return self

    def __exit__(self, *error: object) -> None:
        for actor in list(self.actors):
            self.drop(actor)

    def grow(self, wanted: int) -> None:
        """Start actors until there are `wanted`, within the room of the cluster or the given number.

        With a given number the actors that find no room stay pending: an autoscaling cluster adds nodes for
        them.
        """
        if time.monotonic() - self._looked > 2.0:
            self._looked = time.monotonic()
            self._placement = placement(self._ray.nodes(), self._device, self._cpus)
        where = self._placement
        room = max(where.room, 1) if self._most is None else self._most
        while len(self.actors) < min(wanted, room):
            handle = (
                self._ray.remote(Worker)
                .options(
                    num_cpus=where.cpus,
                    num_gpus=where.gpus,
                    max_concurrency=AT_ONCE,
                    max_restarts=0,
                    scheduling_strategy="SPREAD",
                )
                .remote()
            )
            # Threads of the decoder and the device follow from what the actor has.
            device = self._device if where.gpus else "cpu"
            job = dict(self._job, arguments=self._job["arguments_for"](device, where.cpus))
            del job["arguments_for"]
            self.actors.append(Actor(handle, opening=handle.open.remote(job)))

    def opened(self, actor: Actor, stage: str | None) -> None:
        """Note the answer of `open` or `stage`."""
        actor.opening, actor.stage, self._lost_early = None, stage, 0

    def drop(self, actor: Actor) -> list[int]:
        """End an actor; return the units that it had in hand."""
        self.actors.remove(actor)
        self._ray.kill(actor.handle)
        return [unit for unit, _ in actor.units.values()]

    def lost(self, actor: Actor, error: Exception) -> list[int]:
        """Note that an actor or its node is gone; return the units that it had in hand.

        Raises UserError if no worker gets as far as its first unit.
        """
        if actor.opening is not None:
            self._lost_early += 1
        text = " ".join(str(error).split())
        if "No module named" in text or "ImportError" in text:
            raise UserError(
                f"a node of the cluster cannot load cckt ({text[-160:]}); install the same cckt on every "
                "node, then run the same command again."
            ) from error
        if self._lost_early >= MOST_LOST:
            raise UserError(
                f"{self._lost_early} workers in a row ended before they began, most likely because memory "
                f"ran out ({text[:160]}); give fewer --actors or more --actor-cpus; what is finished is kept."
            ) from error
        return self.drop(actor)
