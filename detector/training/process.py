"""The process of a run: versions of packages, memory, signals, deterministic kernels."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import resource
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch

from cckt.detector.ranks.world import World

PACKAGES = ("torch", "torchvision", "timm", "numpy", "scipy", "zarr", "safetensors")
"""Packages whose versions a run records, besides cckt."""


def versions(world: World) -> dict[str, Any]:
    """Return versions, platform and device, for versions.json."""
    found = {name: importlib.metadata.version(name) for name in ("cckt", *PACKAGES)}
    name = torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else platform.machine()
    return found | {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": f"{world.device.type} ({name})",
        "ranks": world.size,
        "threads": torch.get_num_threads(),
    }


def memory_mib(device: torch.device) -> float:
    """Return the peak memory of this process in MiB: allocated on the GPU, or resident in the host."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


class Signals:
    """Records the first SIGTERM, SIGINT or SIGUSR1, so that the run can finish its step and save a
    checkpoint.

    A second signal has its previous effect. Outside the main thread no signal is caught.
    """

    NAMES = ("SIGTERM", "SIGINT", "SIGUSR1")
    """Signals that are caught."""

    def __init__(self) -> None:
        self.name = ""
        """Name of the signal that was received, "" before."""
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for number in (getattr(signal, name) for name in self.NAMES if hasattr(signal, name)):
                self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.name = signal.Signals(number).name
        self.__exit__()

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}


@contextmanager
def deterministic(device: torch.device, required: bool) -> Iterator[None]:
    """Use deterministic kernels in the block: always on CPUs, where they cost nothing; else if `required`.

    For an operation without one, torch warns.
    """
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    memory: Any = torch.utils.deterministic
    filled, tuned = memory.fill_uninitialized_memory, torch.backends.cudnn.benchmark
    if required or device.type == "cpu":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA is first used
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = memory.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        memory.fill_uninitialized_memory, torch.backends.cudnn.benchmark = filled, tuned
