"""Flip bits of every file of a data set and of a run: each flip is found by a check or refused on opening.

One bit of every third byte is flipped in the short form, all eight of every byte in the slow form. Of files
above LARGE bytes, evenly spaced bytes are flipped: one sha256 covers the whole file, so a position is like
any other.

Left out: photos, which belong to the user (the recomputed sample of `cckt cache verify` compares the columns
with them); TensorBoard's event files, whose records have their own checksums and which cckt never reads.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.index import index_problems, open_index
from cckt.cache_builder.runner import ExactPart
from cckt.cache_builder.store import list_columns, open_writer, verify_column
from cckt.detector.runs.checkpoints import newest_checkpoint
from cckt.detector.runs.file_digests import check_recorded, read_digests, recorded_problems
from cckt.detector.runs.run_folder import Facts, read_json, run_config
from cckt.detector.runs.weights import load_weights
from tests.cache_builder.column_samples import crops_spec, make, tree
from tests.commands.front import World
from tests.faults.conftest import Tell

LARGE, POSITIONS = 6000, 64
SHORT, ALL = (1, 3), (8, 1)
"""(Bits of a byte, one byte of how many) that are flipped."""

Form = tuple[int, int]


def flips(path: Path, form: Form) -> Iterator[str]:
    """Flip bits of bytes of a file, one at a time; yield what was flipped, then restore it."""
    whole = path.read_bytes()
    bits, step = form
    step = max(step, len(whole) // (POSITIONS // step)) if len(whole) > LARGE else step
    try:
        for at in range(0, len(whole), step):
            for number in range(bits):
                bit = (at * 5 + number) % 8
                damaged = bytearray(whole)
                damaged[at] ^= 1 << bit
                path.write_bytes(damaged)
                yield f"{path.name}, byte {at}, bit {bit}"
    finally:
        path.write_bytes(whole)


def is_found(check: Callable[[], object]) -> bool:
    """Return whether a check reports problems or raises UserError; any other exception fails the test."""
    try:
        return bool(check())
    except UserError:
        return True


def all_found(folder: Path, names: list[str], form: Form, check: Callable[[Path], object]) -> int:
    """Assert that a check finds every flip in the files `names` of a folder, and nothing before."""
    assert not is_found(lambda: check(folder)), "expected no problem before a flip"
    count, missed = 0, []
    for name in names:
        for flip in flips(folder / name, form):
            count += 1
            if not is_found(lambda: check(folder)):
                missed.append(flip)
    assert missed == []
    assert not is_found(lambda: check(folder)), "expected no problem after the last flip"
    return count


def files_under(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def flip_a_data_set(world: World, folder: Path, form: Form) -> int:
    shutil.copytree(world.seen, folder)
    names = [name for name in files_under(folder) if name.startswith("index/")]
    assert len(names) > 15, "expected the tables and the card"
    count = all_found(folder, names, form, lambda data: index_problems(open_index(data)))
    for column in list_columns(folder):
        names = [f"{column}/{name}" for name in files_under(folder / column)]
        count += all_found(
            folder, names, form, lambda data, column=column: not verify_column(data, column).ok
        )
    return count


def read_digests_or_none(folder: Path) -> None:
    read_digests(folder)


def check_one(folder: Path, name: str) -> None:
    check_recorded(folder / name)


def flip_a_run(world: World, run: Path, form: Form) -> int:
    shutil.copytree(world.run, run)
    recorded = sorted(read_digests(run))
    assert {"config.toml", "facts.json", "data.json", "versions.json"} <= set(recorded)
    assert {"metrics.json", "metrics.jsonl", "model.safetensors", "base_text.safetensors"} <= set(recorded)
    count = all_found(run, ["digests.json"], form, read_digests_or_none)
    for name in recorded:
        count += all_found(run, [name], form, functools.partial(check_one, name=name))
        damage = flips(run / name, SHORT)
        next(damage)
        assert recorded_problems(run) == [f"{run / name} is not as cckt wrote it"]
        damage.close()
    assert recorded_problems(run) == []
    others = {name for name in files_under(run) if "/" not in name} - {*recorded, "digests.json"}
    assert others == set(), "expected every file of a finished run to be recorded"
    readers: dict[str, Callable[[Path], object]] = {
        "config.toml": lambda folder: run_config(folder) and None,
        "facts.json": lambda folder: Facts.load(folder) and None,
        "data.json": lambda folder: read_json(folder / "data.json", "folders") and None,
        "metrics.json": lambda folder: read_json(folder / "metrics.json", "figures") and None,
        "model.safetensors": lambda folder: load_weights(folder / "model.safetensors") and None,
        "base_text.safetensors": lambda folder: load_weights(folder / "base_text.safetensors") and None,
    }
    for name, reader in readers.items():
        count += all_found(run, [name], SHORT, reader)
    (newest,) = (run / "checkpoints").iterdir()
    names = [f"checkpoints/{newest.name}/{name}" for name in files_under(newest)]
    return count + all_found(run, names, form, lambda folder: newest_checkpoint(folder)[1])


def test_every_flip_in_a_data_set_is_found(world: World, tmp_path: Path, tell: Tell) -> None:
    count = flip_a_data_set(world, tmp_path / "data", SHORT)
    tell(f"{count} flips in a data set, all found")
    assert count > 2000


def test_every_flip_in_a_run_is_found(world: World, tmp_path: Path, tell: Tell) -> None:
    count = flip_a_run(world, tmp_path / "run", SHORT)
    tell(f"{count} flips in a run, all found")
    assert count > 2000


@pytest.mark.slow
def test_all_bits_of_every_byte_are_covered(world: World, tmp_path: Path, tell: Tell) -> None:
    tell(f"{flip_a_data_set(world, tmp_path / 'data', ALL)} flips in a data set, all found")
    tell(f"{flip_a_run(world, tmp_path / 'run', ALL)} flips in a run, all found")


def test_a_flip_in_an_unfinished_column_is_reported_and_changes_no_byte_of_the_end(tmp_path: Path) -> None:
    """A damaged line of a ledger costs its chunks, which are made again; damaged chunks are reported."""
    spec = crops_spec(20)
    make(tmp_path / "whole", spec)
    make(tmp_path / "part", spec, part=ExactPart((0, 2)))
    (ledger,) = (tmp_path / "part/crops/ledger").glob("*.jsonl")
    missing = open_writer(tmp_path / "part", spec).missing()
    assert missing
    harmless = 0
    for flip in flips(ledger, (1, 1)):
        now = open_writer(tmp_path / "part", spec).missing()
        assert set(missing) <= set(now), flip
        harmless += now == missing
    assert harmless == 0, "expected the chunks of a damaged line to count as missing"
    make(tmp_path / "part", spec)
    assert tree(tmp_path / "part") == tree(tmp_path / "whole")
