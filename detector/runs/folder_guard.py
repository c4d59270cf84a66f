"""Protect a run folder: one training at a time, and no files of somebody else are replaced.

`training_lock` is held from the opening of a run to the end of its training. `require_own_or_empty` accepts
only an empty folder, a run folder of `cckt train`, or the files that a killed first start left.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import MISSING, fields
from pathlib import Path

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.locks import hold_lock
from cckt.cache_builder.base.ownership import json_object
from cckt.cache_builder.base.untrusted.regular_files import read_regular_text
from cckt.detector.config.config import Config, load_config
from cckt.detector.ranks.world import World
from cckt.detector.runs.run_folder import Facts

LOCK = ".training.lock"
LOCK_TRIES, LOCK_PAUSE_S = 20, 0.05
"""Attempts to take the lock while its holder is unknown, and the pause between them."""
PARTIAL = re.compile(r"\..+\.\d+\.partial")
"""Name of a file that a killed process has not renamed yet."""


@contextmanager
def training_lock(run: Path, world: World) -> Iterator[None]:
    """Hold the lock of a run folder for the block; every rank must enter it.

    Rank 0 checks the folder with `require_own_or_empty`, creates it if needed, and takes the lock. If it
    cannot, every rank raises the same UserError, which names the process and host that train there. The
    kernel releases the lock of a killed process. A folder that was created here and is still empty at the end
    is removed.
    """
    with ExitStack() as stack:
        refusal = ""
        if world.first:
            try:
                require_own_or_empty(run)
                stack.enter_context(_removed_if_empty(run))
                _take_lock(stack, run)
            except UserError as error:
                refusal = str(error)
        refusal = world.share(refusal)
        if refusal:
            raise UserError(refusal)
        yield


def require_own_or_empty(folder: Path) -> None:
    """Raise UserError unless training may write into `folder`.

    Accepted are a missing or empty folder, a run folder (facts.json and config.toml written by `cckt train`),
    and a folder that holds only files of a killed first start. A path that is no folder is not judged here,
    because creating the folder fails with its own message.
    """
    if not folder.is_dir():
        return
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise UserError(f"--out {folder}: cannot be read ({error.strerror}); give another folder.") from None
    if _is_run(folder):
        return
    own: dict[str, Callable[[Path], bool]] = {
        "config.toml": _is_written_config,
        "versions.json": lambda path: "cckt" in json_object(path),
        "data.json": lambda path: {"train", "val"} <= json_object(path).keys(),
        "ablate.json": lambda path: json_object(path).keys() == {"seconds"},  # written after a failed start
        LOCK: lambda path: True,
    }
    for name in names:
        if not PARTIAL.fullmatch(name) and not (name in own and own[name](folder / name)):
            raise UserError(
                f"--out {folder}: found {name} in it, expected an empty folder or a run made by cckt train; "
                "give a new folder."
            )


def _take_lock(stack: ExitStack, run: Path) -> None:
    """Take the lock of a run folder until `stack` closes. Raises UserError if another process has it."""
    path = run / LOCK
    for _ in range(LOCK_TRIES):
        if stack.enter_context(hold_lock(path, wait=False)):
            with contextlib.suppress(OSError):  # without locks, or a folder that cannot be made
                path.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
            return
        holder = json_object(path)
        if holder.keys() == {"pid", "host"}:
            raise _locked(run, f"process {holder['pid']} on {holder['host']}")
        time.sleep(LOCK_PAUSE_S)  # the holder is about to write its name, or to leave
    raise _locked(run, "another process")


def _locked(run: Path, holder: str) -> UserError:
    return UserError(
        f"{run}: {holder} is training in this folder, expected no other training; wait until it ends, or "
        "give another --out."
    )


@contextmanager
def _removed_if_empty(folder: Path) -> Iterator[None]:
    """Remove `folder` after the block if it did not exist before and is empty."""
    existed = folder.exists()
    try:
        yield
    finally:
        if not existed:
            with contextlib.suppress(OSError):  # not empty, or never created
                folder.rmdir()


def _is_run(folder: Path) -> bool:
    """Return whether facts.json and config.toml were written by `cckt train`, of any version."""
    required = {
        field.name for field in fields(Facts) if field.default is MISSING and field.default_factory is MISSING
    }
    if not required <= json_object(folder / "facts.json").keys():
        return False
    try:
        config = tomllib.loads(read_regular_text(folder / "config.toml"))
    except (OSError, ValueError, RecursionError):
        return False
    return all(isinstance(config.get(section), dict) for section in ("model", "train"))


def _is_written_config(path: Path) -> bool:
    """Return whether a file is exactly what `save_config` writes, and not a config written by hand."""
    try:
        return read_regular_text(path) == load_config(path, Config()).to_toml()
    except (OSError, ValueError, UserError):
        return False
