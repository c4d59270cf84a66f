"""digests.json: the digests of the finished files of a run, an evaluation or an exported folder.

A reader compares a file with its entry, so that a damaged file is refused and never used. A file without an
entry, and a folder without digests.json (of an earlier version), are accepted as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cckt.cache_builder.base.atomic_files import write_json
from cckt.cache_builder.base.digests import digest_of, file_digest
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.json_text import parse_json
from cckt.cache_builder.store.format.spec import canonical

DIGESTS_FILE = "digests.json"


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
    expected = read_digests(path.parent).get(path.name)
    if expected is not None and path.is_file() and file_digest(path) != expected:
        raise UserError(
            f"{path}: is not as cckt wrote it (its digest is not the one in {DIGESTS_FILE}); restore the "
            f"file, or, if you changed it on purpose, delete {path.parent / DIGESTS_FILE}."
        )


def recorded_problems(folder: Path) -> list[str]:
    """Return a sentence for each recorded file that is damaged or missing; UserError as `read_digests`."""
    problems = []
    for name, digest in read_digests(folder).items():
        if not (folder / name).is_file():
            problems.append(f"{folder / name} is missing")
        elif file_digest(folder / name) != digest:
            problems.append(f"{folder / name} is not as cckt wrote it")
    return problems


def read_digests(folder: Path) -> dict[str, str]:
    """Return name -> digest; {} if the folder has no digests.json. UserError if it is damaged."""
    path = folder / DIGESTS_FILE
    if not path.is_file():
        return {}
    try:
        content = parse_json(path.read_bytes())
        files, digest = content["files"], content["digest"]
        intact = content.keys() == {"files", "digest"} and digest == digest_of(canonical(files))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        intact = False
    if not intact or not isinstance(files, dict):
        raise UserError(
            f"{path}: is damaged, expected the digests of the files next to it; restore it, or delete it to "
            "use these files without a check."
        )
    return {str(name): str(value) for name, value in files.items()}


def _write(folder: Path, files: dict[str, str]) -> None:
    files = dict(sorted(files.items()))
    write_json(folder / DIGESTS_FILE, {"files": files, "digest": digest_of(canonical(files))})
