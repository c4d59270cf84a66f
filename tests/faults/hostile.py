"""Hostile values, hostile contents of files, and hostile things in the place of files."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cckt.cache_builder.base.digests import digest_of
from cckt.cache_builder.store.format.spec import canonical

NUMBERS = (
    "-1",
    "0",
    "1",
    "3",
    "0.5",
    "nan",
    "inf",
    "-inf",
    "1e999",
    "²",
    "٣",
    "1_0",
    "0x10",
    "1e3",
    "9" * 5000,
)
TEXTS = (
    "",
    " ",
    "x",
    "None",
    "[]",
    "{}",
    "a=b",
    "\x1b[31m",
    "\u202eevil",
    "\udcff",
    "é",
    "a" * 251,
    "-",
    "--",
    "'",
)
PATHS = (
    "",
    ".",
    "..",
    "/dev/null",
    "/dev/full",
    "/dev/null/x",
    "/proc/x",
    "/proc/self/mem",
    "s3://bucket/x",
    "memory://x",
    "file:///x",
    "no/such/place",
    "n" * 251,
    "n" * 5000,
    "\udcff",
    "~nobody/x",
    "a\nb",
)
VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    2**31,
    2**63,
    2**53 + 1.0,
    10**400,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "²",
    "../x",
    "/etc/passwd",
    "\0",
    "\ud800",
    "x" * 300,
    [],
    {},
    [[]],
    [1],
    {"a": 1},
    [None],
)

Mutation = Callable[[random.Random, Path], None]


def word(rng: random.Random) -> str:
    """Return a hostile value of an option."""
    return rng.choice(rng.choice((NUMBERS, TEXTS, PATHS)))


def damage_bytes(rng: random.Random, path: Path) -> None:
    """Truncate, flip, lengthen or empty a file, or replace it by bytes of another kind."""
    data = bytearray(path.read_bytes())
    kind = rng.randrange(7)
    if kind == 0:
        data = data[: rng.randrange(len(data) + 1)]
    elif kind == 1 and data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == 2:
        data += rng.randbytes(rng.randrange(1, 40))
    elif kind == 3:
        data = bytearray()
    elif kind == 4:
        data = bytearray(rng.randbytes(len(data)))
    elif kind == 5:
        data = bytearray(b"[" * 100_000)
    else:
        data = bytearray(b'{"a": ' + b"9" * 6000 + b"}")
    path.write_bytes(data)


def damage_json(rng: random.Random, path: Path) -> None:
    """Replace, remove, copy or add a value somewhere in a JSON file; other files as `damage_bytes`."""
    try:
        content = json.loads(path.read_bytes())
    except ValueError:
        damage_bytes(rng, path)
        return
    places = list(_places(content))
    if not places:
        damage_bytes(rng, path)
        return
    holder, key = rng.choice(places)
    kind = rng.randrange(6)
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(holder, dict):
        holder[str(key) + "x"] = holder.pop(key)
    elif kind == 2 and isinstance(holder, list):
        holder.append(holder[key])
    else:
        holder[key] = rng.choice(VALUES)
    _reseal(content, rng)
    path.write_text(json.dumps(content), encoding="utf-8", errors="surrogatepass")


def _places(content: Any) -> Any:
    if isinstance(content, dict):
        for key, value in content.items():
            yield content, key
            yield from _places(value)
    elif isinstance(content, list):
        for at, value in enumerate(content[:20]):
            yield content, at
            yield from _places(value)


def _reseal(content: Any, rng: random.Random) -> None:
    """Make the digest in a manifest or card fit again, mostly: checks behind the digest are to be reached."""
    if not isinstance(content, dict) or rng.random() < 0.2:
        return
    if "card_digest" in content or "tables" in content:
        content.pop("card_digest", None)
        content.pop("files", None)
    attributes = content.get("attributes")
    manifest = attributes.get("cckt") if isinstance(attributes, dict) else None
    if isinstance(manifest, dict) and "digest" in manifest:
        fields = {key: value for key, value in manifest.items() if key != "digest"}
        try:
            manifest["digest"] = digest_of(canonical(fields))
        except (ValueError, TypeError):  # NaN, or a lone surrogate
            return


def replace_special(rng: random.Random, path: Path) -> None:
    """Put something into the place of a file that is no readable file."""
    path.unlink()
    kind = rng.randrange(6)
    if kind == 0:
        path.mkdir()
    elif kind == 1:
        os.mkfifo(path)
    elif kind == 2:
        path.symlink_to(path.name)
    elif kind == 3:
        path.symlink_to("/dev/zero")
    elif kind == 4:
        path.symlink_to("nowhere/x")


def damage(rng: random.Random, folder: Path) -> str:
    """Damage one or two files of a folder; return their names."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    names = []
    for path in rng.sample(files, min(len(files), rng.choice((1, 1, 2)))):
        mutation: Mutation = rng.choice((damage_json, damage_json, damage_bytes, replace_special))
        mutation(rng, path)
        names.append(f"{path.relative_to(folder)} by {mutation.__name__}")
    return ", ".join(names)


def copy_run(run: Path, target: Path, rng: random.Random) -> None:
    """Copy the files of a run that are read; mostly without digests.json, which would refuse every change."""
    target.mkdir()
    for path in run.iterdir():
        if path.is_file():
            shutil.copy(path, target)
    if rng.random() < 0.8:
        (target / "digests.json").unlink(missing_ok=True)
