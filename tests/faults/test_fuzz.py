"""Seeded fuzz of every verb: bad options and bad inputs end with exit 0 or 2, one sentence, nothing lost.

The short form is CASES cases. CCKT_FUZZ_SEED chooses others, CCKT_FUZZ_CASES another number.
"""

from __future__ import annotations

import contextlib
import faulthandler
import functools
import hashlib
import io
import os
import random
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import typer

from cckt import cli
from cckt.cache_builder.base.untrusted.bounded import memory_limit
from cckt.detector.config.config import Config
from tests.commands.front import World, coco, options
from tests.faults import hostile
from tests.faults.conftest import Tell

CASES = 2000
LIMIT_S = 30
"""Seconds of computing after which a case counts as hanging."""
MOST_BYTES = 6 << 30
"""Memory that the cases may take in addition to that of the process; an allocation beyond it fails."""
PATIENCE_S = 300
"""Seconds on the clock after which a case counts as hanging: it waits, or the machine is very busy."""

Words = list[object]
Case = tuple[Words, str]
"""A command line, and what was done to its inputs."""


class Hang(Exception):
    """A case that computed for LIMIT_S seconds, or took PATIENCE_S."""


@contextlib.contextmanager
def bounded(words: Words) -> Iterator[None]:
    """Raise Hang after LIMIT_S seconds of computing or PATIENCE_S on the clock. If no exception gets through,
    because the command waits for a thread, name it, show where it waits and end the process.
    """
    began, computed = time.monotonic(), time.process_time()

    def stop(number: int, frame: Any) -> None:
        if time.process_time() - computed >= LIMIT_S or time.monotonic() - began >= PATIENCE_S:
            raise Hang
        signal.alarm(LIMIT_S)

    def give_up() -> None:
        shown = " ".join(str(word)[:200] for word in words)
        # Not sys.stderr, which the caller has replaced.
        assert sys.__stderr__ is not None
        sys.__stderr__.write(f"\nhang: cckt {shown}\n")
        faulthandler.dump_traceback(file=sys.__stderr__)
        sys.__stderr__.flush()
        os._exit(70)

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LIMIT_S)
    watchdog = threading.Timer(PATIENCE_S + LIMIT_S, give_up)
    watchdog.daemon = True
    watchdog.start()
    try:
        yield
    finally:
        watchdog.cancel()
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def call(words: Words) -> tuple[int | str, str]:
    """Run a command line in this process; return its exit code, or the name of what it raised, and stderr."""
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch("sys.stdin", io.StringIO()),
    ):
        try:
            with bounded(words):
                code: int | str = cli.run([str(word) for word in words])
        except Hang:
            code = "hang"
        except BaseException as error:
            code = type(error).__name__
    return code, err.getvalue()


def state(folder: Path) -> str:
    """Digest of names and contents of everything below a folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        digest.update(os.fsencode(path.relative_to(folder)))
        if path.is_symlink():
            digest.update(os.fsencode(os.readlink(path)))
        elif path.is_file():
            digest.update(path.read_bytes())
    return digest.hexdigest()


def commands(world: World, box: Path) -> dict[str, Words]:
    """Verb -> a command line that works, with everything that it writes inside `box`/new."""
    out, held, seen, run, no = box / "new", world.held, world.seen, world.run, box / "no"
    words, vectors, ids = (world.folder / name for name in ("words.txt", "vectors.npy", "ids.npy"))
    photo = world.folder / "photos" / "0.png"
    given = ["--annotations", world.folder / "coco.json", "--images", world.folder / "photos"]
    teacher = ["--teacher", world.teacher]
    train = ["train", "--recipe", "shapeworld", "--train", seen, "--out", out, "--max-steps", "1", *options()]
    return {
        "data index": ["data", "index", *given, "--split", world.folder / "split.json", "--out", out],
        "data split": ["data", "split", given[1], "--share", "0.5", "--out", out],
        "data shapeworld": ["data", "shapeworld", "--photos", "1", "--workers", "1", "--out", out],
        "cache text": ["cache", "text", held, *teacher, "--out", out],
        "cache crops": ["cache", "crops", held, *teacher, "--workers", "1", "--out", out],
        "cache images": ["cache", "images", held, *teacher, "--workers", "1", "--out", out],
        "cache all": ["cache", "all", seen, *teacher, "--workers", "1", "--out", out],
        "cache priors": ["cache", "priors", box / "held"],
        "cache info": ["cache", "info", held],
        "cache verify": ["cache", "verify", held, "--sample", "0"],
        "cache diff": ["cache", "diff", held, seen],
        "cache pull": ["cache", "pull", held, out],
        "train": train,
        "eval": ["eval", run, "--data", held, "--out", out],
        "predict": ["predict", run, photo, "--vocabulary", "cup", *teacher, "--out", out],
        "report": ["report", run, "--data", held, "--out", box / "new.html", "--no-sweep"],
        "pseudo": ["pseudo", run, "--data", seen, "--out", out, "--priors", "none"],
        "export": ["export", run, "--format", "hf-folder", "--out", out],
        "doctor": ["doctor", "--data", held, "--run", run],
        "cache proposals": ["cache", "proposals", held, "--from", run, "--min-side", "1", "--out", out],
        "cache finish": ["cache", "finish", box / "held"],
        "cache nouns": ["cache", "nouns", box / "named", "--nouns-from", words, "--overwrite"],
        "cache fit-nouns": ["cache", "fit-nouns", box / "named", "--w-max", "0.4"],
        "cache plan": ["cache", "plan", held, *teacher],
        "cache export": ["cache", "export", held, "images", "--format", "npy", "--out", box / "new.npy"],
        "cache import": [
            *("cache", "import", box / "held", "images-mine", vectors),
            *("--ids", ids, "--made-by", "another program"),
        ],
        "ablate": ["ablate", "options", "--out", out, "--train", no, "--val", no, "--row", "prior.rho=0.5"],
        "quickstart": ["quickstart", "--out", world.folder / "coco.json" / "x"],
    }


WEIGHTS = {"train": 3, "report": 3, "cache all": 3, "data shapeworld": 3, "doctor": 3, "cache plan": 3}
"""Verbs that take long get fewer cases; the default is 6."""

REFUSED = ("quickstart", "ablate")
"""Verbs whose command line is refused for two reasons, because they would take minutes. One change never
makes them begin."""

COPIED = {"cache priors": "held", "cache finish": "held", "cache import": "held"}
COPIED |= {"cache nouns": "named", "cache fit-nouns": "named"}
"""Verbs that write into the data set -> the data set that they get a copy of."""


@functools.cache
def all_options() -> tuple[str, ...]:
    """Return the options of every verb."""
    waiting, found = [typer.main.get_command(cli.app)], set[str]()
    while waiting:
        command: Any = waiting.pop()
        waiting += getattr(command, "commands", {}).values()
        found |= {name for one in command.params for name in one.opts if name.startswith("--")}
    return tuple(sorted(found - {"--engine", "--address", "--debug"}))  # no Ray cluster; no traceback


@functools.cache
def all_settings() -> tuple[str, ...]:
    """Return the names of the options that `--set` takes."""
    return tuple(sorted(Config().options()))


def with_bad_option(rng: random.Random, words: Words) -> Case:
    """Replace a value, or add, remove or double an option."""
    words = list(words)
    kind = rng.choice((1, 4)) if words[0] == "quickstart" else rng.randrange(5)
    at = rng.randrange(1, len(words))
    if kind == 0:
        words[at] = hostile.word(rng)
    elif kind == 1:
        option = rng.choice(all_options())
        if words[0] == "quickstart" and option == "--out":  # another place may be a good one, for minutes
            option = "--no-such-option"
        words += [option, hostile.word(rng)]
    elif kind == 2:
        words += ["--set", f"{rng.choice(all_settings())}={hostile.word(rng)}"]
    elif kind == 3:
        del words[at]
    else:
        words += [rng.choice(all_options())]
    return words, "options"


def with_bad_input(rng: random.Random, words: Words, world: World, box: Path) -> Case:
    """Copy an input that the command line names into `box`, damage the copy and name it."""
    folders = [box / "held", box / "named", world.held, world.seen, world.run, world.folder / "photos"]
    inputs = {str(path): path for path in folders}
    files = ("coco.json", "split.json", "words.txt", "vectors.npy", "ids.npy")
    inputs |= {str(world.folder / name): world.folder / name for name in files}
    inputs |= {world.teacher: Path(world.teacher.partition(":")[2] or world.teacher)}
    inputs |= {str(world.folder / "photos/0.png"): world.folder / "photos/0.png"}
    named = [at for at, word in enumerate(words) if str(word) in inputs and inputs[str(word)].exists()]
    if not named:
        return with_bad_option(rng, words)
    at = rng.choice(named)
    source = inputs[str(words[at])]
    copied = box / "in" / source.name
    copied.parent.mkdir()
    if source == world.run:
        hostile.copy_run(source, copied, rng)
    elif source.is_dir():
        shutil.copytree(source, copied, symlinks=True)
    else:
        shutil.copy(source, copied)
    what = hostile.damage(rng, copied.parent)
    word = str(copied) if str(words[at]) != world.teacher else words[at].partition(":")[0] + f":{copied}"
    return [*words[:at], word, *words[at + 1 :]], what


def with_bad_place(rng: random.Random, words: Words, box: Path) -> Case:
    """Put something of the user into the place of the result."""
    out = box / "new"
    kind = rng.randrange(5)
    if kind == 0:
        out.write_text("precious")
    elif kind == 1:
        out.symlink_to(out.name)
    elif kind == 2:
        os.mkfifo(out)
    else:
        for name in ("metrics.json", "predictions.json", "index/index.json", "text/zarr.json", "config.toml"):
            path = out / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("precious" if kind == 3 else "{}")
    return words, "something in the place of the result"


def precious(box: Path) -> dict[str, bytes]:
    """Files of the user below the place of the result."""
    return {
        str(path): path.read_bytes()
        for path in (box / "new", *(box / "new").rglob("*"))
        if path.is_file() and not path.is_symlink() and path.stat().st_size
    }


def make_case(rng: random.Random, world: World, box: Path) -> tuple[str, Case]:
    known = commands(world, box)
    weights = [WEIGHTS.get(verb, 6) for verb in known]
    verb = rng.choices(list(known), weights)[0]
    if verb in COPIED:
        shutil.copytree(world.folder / COPIED[verb], box / COPIED[verb])
    kind = rng.random()
    if kind < 0.45:
        return verb, with_bad_option(rng, known[verb])
    if kind < 0.9 and verb not in REFUSED:
        return verb, with_bad_input(rng, known[verb], world, box)
    place = with_bad_option if verb == "quickstart" else functools.partial(with_bad_place, box=box)
    return verb, place(rng, known[verb])


def fault_of(code: int | str, err: str, seconds: float) -> str:
    """Return what is wrong with the end of a command; "" if nothing is."""
    if code not in (0, 2):
        return f"exit {code}: {err.strip().splitlines()[-1:]}"
    if "Traceback" in err:
        return "a traceback"
    if code == 2 and not (err.count("cckt: ") == 1 or "Error" in err or "Usage" in err):
        return f"no sentence: {err[-200:]!r}"
    return f"{seconds:.0f} s" if seconds > LIMIT_S else ""


def test_bad_options_and_bad_inputs_end_in_a_sentence(
    world: World, tmp_path: Path, tell: Tell, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = int(os.environ.get("CCKT_FUZZ_CASES", CASES))
    first = int(os.environ.get("CCKT_FUZZ_SEED", 0))
    run_fuzz(world, tmp_path, tell, monkeypatch, range(first, first + cases))


def run_fuzz(
    world: World, tmp_path: Path, tell: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, seeds: range
) -> None:
    """Run one case for each seed; assert that every one ends right and that no input changed."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")  # relative places of hostile options
    before, began, computed = state(world.folder), time.monotonic(), time.process_time()
    faults, codes, slowest = [], Counter[str](), (0.0, "")
    for seed in seeds:
        rng, box = random.Random(seed), tmp_path / "box"
        box.mkdir()
        verb, (words, what) = make_case(rng, world, box)
        owned = precious(box)
        start = time.process_time()
        with memory_limit(MOST_BYTES):  # a bomb must not take the machine
            code, err = call(words)
        seconds = time.process_time() - start
        fault = fault_of(code, err, seconds)
        changed = [name for name, content in owned.items() if _content(name) != content]
        if changed and not all(content in (b"{}",) for content in owned.values()):
            fault = fault or f"files of the user changed: {changed}"
        codes[f"{verb} exit {code}"] += 1
        slowest = max(slowest, (seconds, f"seed {seed}: {verb}"))
        if fault:
            shown = " ".join(str(word)[:80] for word in words)
            faults.append(f"seed {seed}: {fault[:300]}\n    {what}\n    cckt {shown[:600]}")
        shutil.rmtree(box, ignore_errors=True)
    total, computed = time.monotonic() - began, time.process_time() - computed
    tell(
        f"{len(seeds)} cases in {total:.0f} s, {computed:.0f} s of them computing, {len(faults)} wrong; "
        f"slowest {slowest[0]:.1f} s ({slowest[1]})"
    )
    assert not faults, "\n".join(faults)
    for path in world.run.glob("eval-*"):  # where cckt eval writes without --out
        shutil.rmtree(path)
    assert state(world.folder) == before, "expected inputs that no command changed"


def _content(name: str) -> bytes | None:
    path = Path(name)
    return path.read_bytes() if path.is_file() else None


@pytest.mark.slow
def test_the_long_form(world: World, tmp_path: Path, tell: Tell, monkeypatch: pytest.MonkeyPatch) -> None:
    run_fuzz(world, tmp_path, tell, monkeypatch, range(100_000, 120_000))


def test_the_command_lines_work_without_a_fault(world: World, tmp_path: Path) -> None:
    """Else the fuzz would test only the parser."""
    for name in set(COPIED.values()):
        shutil.copytree(world.folder / name, tmp_path / name)
    for verb, words in commands(world, tmp_path).items():
        for path in tmp_path.glob("new*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        code, err = call(words)
        if verb in REFUSED:
            assert code == 2, verb
        elif verb != "doctor":  # which finds that a run of one step is no good
            assert code == 0, f"{verb}: {err}"


def test_the_world_is_the_one_that_the_command_lines_name(tmp_path: Path) -> None:
    assert (coco(tmp_path / "again") / "coco.json").is_file()
