"""digests.json: the digests of the finished files of a run, an evaluation or an exported folder.

A reader compares a file with its entry, so that a damaged file is refused and never used. A file without an
entry, and a folder without digests.json (of an earlier version), are accepted as they are. Weights may also
be a copy of other recorded weights of the folder, such as best.safetensors in the place of
model.safetensors. Any other change is accepted by `cckt doctor --run RUN --accept`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cckt.cache_builder.base.atomic_files import write_json
from cckt.cache_builder.base.digests import digest_of, file_digest
from cckt.cache_builder.base.disk_faults import raise_unless_missing
from cckt.cache_builder.base.errors import UserError, quoted
from cckt.cache_builder.base.untrusted.regular_files import read_regular
from cckt.cache_builder.base.untrusted.text import parse_json
from cckt.cache_builder.store.format.spec import canonical

DIGESTS_FILE, WEIGHTS = "digests.json", ".safetensors"


@contextmanager
def recorded(folder: Path, *names: str) -> Iterator[None]:
    """Record the digests of the files `names` of `folder`, which the block writes.

    A kill leaves a file without an entry, never a file with the entry of another one. Files that the block
    does not write get no entry.
    """
    forget(folder, *names)
    yield
    record(folder, *names)


def record(folder: Path, *names: str) -> None:
    """Record the digests of those of the files `names` that exist."""
    known = read_digests(folder)
    known |= {name: file_digest(folder / name) for name in names if (folder / name).is_file()}
    _write(folder, known)


def forget(folder: Path, *names: str) -> None:
    """Remove the entries of the files `names`, before they are changed or removed."""
    known = read_digests(folder)
    if known.keys() & set(names):
        _write(folder, {name: digest for name, digest in known.items() if name not in names})


def check_recorded(path: Path) -> None:
    """Raise UserError if digests.json next to a file has another digest for it, or is damaged itself."""
    known = read_digests(path.parent)
    if path.name in known and path.is_file() and not _is_intact(path, known):
        raise UserError(
            f"{path}: is not as cckt wrote it (its digest is not the one in {DIGESTS_FILE}); restore it "
            f"or, if you changed it on purpose, {_how_to_accept(path.parent)}."
        )


def recorded_problems(folder: Path) -> list[str]:
    """Return a sentence for each recorded file that is damaged or missing; UserError as `read_digests`."""
    problems, known = [], read_digests(folder)
    for name in known:
        if not (folder / name).is_file():
            problems.append(f"{folder / name} is missing")
        elif not _is_intact(folder / name, known):
            problems.append(f"{folder / name} is not as cckt wrote it")
    return problems


def accept(folder: Path) -> list[str]:
    """Record the files of a folder as they are now; return the names of those that differed or are missing.

    A damaged digests.json is removed: which files it recorded is unknown, and all are then used unchecked.
    """
    try:
        known = read_digests(folder)
    except UserError:
        (folder / DIGESTS_FILE).unlink()
        return [DIGESTS_FILE]
    changed = [
        name
        for name, digest in known.items()
        if not (folder / name).is_file() or file_digest(folder / name) != digest
    ]
    if changed:
        forget(folder, *changed)
        record(folder, *changed)
    return changed


def read_digests(folder: Path) -> dict[str, str]:
    """Return name -> digest; {} if the folder has no digests.json. UserError if it is damaged."""
    path = folder / DIGESTS_FILE
    if not path.is_file():
        return {}
    try:
        content = parse_json(read_regular(path))
        files, digest = content["files"], content["digest"]
        intact = content.keys() == {"files", "digest"} and digest == digest_of(canonical(files))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise_unless_missing(error, path)
        intact = False
    if not intact or not isinstance(files, dict):
        raise UserError(
            f"{path}: is damaged, expected the digests of the files next to it; restore it, or delete it to "
            "use these files without a check."
        )
    return {str(name): str(value) for name, value in files.items()}


def _is_intact(path: Path, known: dict[str, str]) -> bool:
    """Return whether a file has its recorded digest or, for weights, that of other recorded weights."""
    digest = file_digest(path)
    if digest == known[path.name]:
        return True
    weights = {other for name, other in known.items() if name.endswith(WEIGHTS)}
    return path.name.endswith(WEIGHTS) and digest in weights


def _how_to_accept(folder: Path) -> str:
    run = folder if (folder / "facts.json").is_file() else folder.parent
    if (run / "facts.json").is_file():
        return f"run cckt doctor --run {quoted(run)} --accept"
    return f"delete {folder / DIGESTS_FILE}"


def _write(folder: Path, files: dict[str, str]) -> None:
    files = dict(sorted(files.items()))
    write_json(folder / DIGESTS_FILE, {"files": files, "digest": digest_of(canonical(files))})
