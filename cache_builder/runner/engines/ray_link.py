"""Connect to a Ray cluster, or start one on this machine."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from cckt.cache_builder.base.errors import UserError

ANSWER_SECONDS = 25.0
"""Longest time in which a cluster must answer."""

STARTS = 3
"""Attempts to start a cluster on this machine."""

_PROBE = "import sys, ray; ray.init(address=sys.argv[1], logging_level='ERROR', log_to_driver=False)"


@contextlib.contextmanager
def linked(address: str | None) -> Iterator[Any]:
    """Connect to a cluster for the block; yield the module `ray`.

    address: None starts a cluster of this machine that ends with the block; "auto", HOST:PORT or
    ray://HOST:PORT connect to a running one. A connection that the program has already made is used, and
    stays. Raises UserError if ray is not installed or no cluster answers within 25 s.
    """
    if importlib.util.find_spec("ray") is None:
        raise UserError(
            "--engine ray needs the package ray, which is not installed: run pip install 'cckt[ray]', or "
            "leave --engine out."
        )
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a tool of ours reports nobody's usage
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # of a cluster here: its workers are the work
    import ray

    with _without_its_prints():
        if ray.is_initialized():
            yield ray
            return
        if address is not None:
            _require_answer(address)
        _connect(ray, address)
        try:
            yield ray
        finally:
            ray.shutdown()


@contextlib.contextmanager
def _without_its_prints() -> Iterator[None]:
    """Keep ray from printing logs of lost nodes to stdout: our own sentences say what matters.

    Ray has no option for that; if a version has no such function, it prints.
    """
    from ray._private import worker

    before = getattr(worker, "print_to_stdstream", None)
    if before is not None:
        worker.print_to_stdstream = lambda *arguments, **options: None
    try:
        yield
    finally:
        if before is not None:
            worker.print_to_stdstream = before


def _connect(ray: Any, address: str | None) -> None:
    """Connect, or start a cluster; a busy machine may need more than the 30 s that ray grants a start."""
    for attempt in range(STARTS):
        try:
            options: dict[str, Any] = {"include_dashboard": False} if address is None else {}
            ray.init(address=address or "local", logging_level="ERROR", log_to_driver=False, **options)
            return
        except Exception as error:
            ray.shutdown()
            if address is not None or attempt == STARTS - 1:
                raise _no_answer(address, str(error)) from error


def _require_answer(address: str) -> None:
    """Raise UserError if no cluster answers. Another process tries, for ray may wait forever or abort."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROBE, address],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=ANSWER_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise _no_answer(address, f"no answer in {ANSWER_SECONDS:.0f} s") from None
    if done.returncode:
        lines = [line for line in done.stderr.strip().splitlines() if line.strip()]
        raise _no_answer(address, lines[-1] if lines else f"exit code {done.returncode}")


def _no_answer(address: str | None, reason: str) -> UserError:
    reason = " ".join(reason.split()).rstrip(".")
    reason = reason if len(reason) <= 160 else reason[:157] + "..."
    if address is None:
        return UserError(
            f"no Ray cluster could be started on this machine ({reason}); make one with ray start --head."
        )
    return UserError(
        f"--address {address}: found no Ray cluster ({reason}), expected one that answers there; start it "
        "with ray start --head, set RAY_AUTH_MODE here as it is there, or leave --address out to use this "
        "machine."
    )
