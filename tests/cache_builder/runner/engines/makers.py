"""Makers of columns whose nodes differ: what the workers of a cluster run in the tests."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path
from typing import Any

from cckt.cache_builder.base import atomic_files
from cckt.cache_builder.index import open_index
from cckt.cache_builder.photos import check_photos
from tests.cache_builder.column_samples import crops_spec, make

SPEC = crops_spec(320, 8)
"""Forty chunks."""


def plain(data: Path, delay: float = 0.0) -> Any:
    """Make the column."""
    return make(data, SPEC, batch=8, delay=delay, workers=1)


def spanning(data: Path, delay: float = 0.0) -> Any:
    """Make the column with batches that hold rows of several chunks."""
    return make(data, SPEC, batch=12, independent=True, delay=delay, workers=1)


def two_columns(data: Path) -> list[Any]:
    """Make two columns, one after the other: two stages."""
    return [make(data, SPEC), make(data, crops_spec(80, 8, name="images", table="images"))]


def other_teacher(data: Path, driver: int) -> Any:
    """Make the column; workers have other weights than the driver."""
    digest = "sha256:driver" if os.getpid() == driver else "sha256:worker"
    recipe = {"teacher": {"name": "tiny/one", "weight_digest": digest}}
    return make(data, crops_spec(320, 8, recipe=recipe))


def no_photos(data: Path, bare: Path, driver: int) -> Any:
    """Make the column; workers see a data set without its photos."""
    check_photos(open_index(data if os.getpid() == driver else bare))
    return make(data, SPEC)


def full_disk(data: Path, driver: int) -> Any:
    """Make the column; the disk of workers is full after some chunks."""
    if os.getpid() != driver:
        real, left = atomic_files.place, [3]

        def place(content: Any, target: Path, temporary: Path, **options: Any) -> bool:
            left[0] -= 1
            if left[0] < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
            return real(content, target, temporary, **options)

        atomic_files.place = place  # type: ignore[assignment]
    return make(data, SPEC)


def broken(data: Path, driver: int) -> Any:
    """Make the column; workers have a fault."""
    assert os.getpid() == driver, "expected the driver"
    return make(data, SPEC)


def deadly(data: Path, driver: int) -> Any:
    """Make the column; a worker ends at once when it begins."""
    if os.getpid() != driver:
        os._exit(9)
    return make(data, SPEC)


class Where:
    """A work that says on which node it runs, and on which device it was placed."""

    def __init__(self, device: str) -> None:
        self._device, self._begun = device, False

    def stage(self) -> str | None:
        begun, self._begun = self._begun, True
        return None if begun else "work"

    def make(self, unit: int) -> tuple[str, str]:
        import ray

        time.sleep(0.3)  # so that every worker gets some
        return ray.get_runtime_context().get_node_id(), self._device
