"""Copy finished columns from one place to another, with the digest of every chunk checked on the way."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from cckt.cache_builder.base.digests import digest_of
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.progress import Progress, Silent
from cckt.cache_builder.store.begin import require_empty
from cckt.cache_builder.store.format.file_names import GROUP, chunk_file, is_temporary
from cckt.cache_builder.store.format.manifest import read_manifest
from cckt.cache_builder.store.info import list_columns
from cckt.cache_builder.store.kinds import parse_name
from cckt.cache_builder.store.places.contract import ChunkFiles
from cckt.cache_builder.store.places.files import open_files
from cckt.cache_builder.store.reader import open_column

WORKERS = 8
"""Chunks copied at the same time."""


@dataclass(frozen=True)
class PullReport:
    """What `pull` did."""

    columns: tuple[str, ...]
    fetched: int
    """Chunk files copied."""
    kept: int
    """Chunk files that were in the target already, with the right digest."""
    bytes: int
    """Bytes copied."""


def pull(
    source: Path | str,
    target: Path | str,
    names: Sequence[str] | None = None,
    *,
    workers: int = WORKERS,
    progress: Progress | None = None,
) -> PullReport:
    """Copy finished columns (all, or `names`) between data sets in any two places, usually from a URL.

    The digest of each chunk is checked before it is placed; the manifest comes last. After a kill the same
    call resumes. Nothing of `source` chooses a path: names of columns are parsed, names of files are ours.

    Raises UserError: `workers` below 1, no column, a name of no kind of column, an unfinished column, a
    damaged chunk, another column or other files in the target's place.
    """
    progress = progress or Silent()
    if workers < 1:
        raise UserError(f"--workers is {workers}; give at least 1.")
    chosen = list(names if names is not None else list_columns(source))
    if not chosen:
        raise UserError(f"There is no column under {source}: expected at least one, check the address.")
    for name in chosen:
        if parse_name(name) is None:
            known = ", ".join(list_columns(source)) or "none"
            raise UserError(
                f"{name!r} is not the name of a column: {source} holds {known}; name some of these."
            )
    counts = [0, 0, 0]
    for name in chosen:
        with open_files(target, name).locked():
            _pull_one(source, target, name, workers, progress, counts)
    return PullReport(tuple(chosen), *counts)


def _pull_one(
    source: Path | str, target: Path | str, name: str, workers: int, progress: Progress, counts: list[int]
) -> None:
    manifest = open_column(source, name).manifest
    spec = manifest.spec
    origin, place = open_files(source, name), open_files(target, name)
    found = read_manifest(place)
    if found is not None and found.digest != manifest.digest:
        raise UserError(
            f"{place.place} holds another column: found digest {found.digest}, expected {manifest.digest}; "
            "remove it or pull into another folder."
        )
    if found is not None:
        place.remove([file for file in place.sizes() if is_temporary(file)])
        counts[1] += spec.n_chunks * len(spec.arrays)
        return
    require_empty(place)
    wanted = {
        chunk_file(array, chunk): digest
        for array, digests in manifest.chunks.items()
        for chunk, digest in enumerate(digests)
    }
    for document, digest in manifest.documents.items():
        place.put(document, _proven(origin, document, digest), new=True)
        _proven(place, document, digest)  # an earlier copy may be of another column
    progress.start(f"pull {name}", len(wanted), "chunks")
    sizes = place.sizes()

    def fetch(file: str) -> int:
        size = spec.chunk_bytes(file.split("/")[0])
        if sizes.get(file) == size and digest_of(place.get(file) or b"") == wanted[file]:
            return 0
        place.put(file, _proven(origin, file, wanted[file]))
        return size

    with ThreadPoolExecutor(workers, thread_name_prefix="cckt-pull") as pool:
        jobs = [pool.submit(fetch, file) for file in wanted]
        try:
            for job in as_completed(jobs):
                size = job.result()
                counts[0 if size else 1] += 1
                counts[2] += size
                progress.advance()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    place.remove([file for file in place.sizes() if is_temporary(file)])
    place.put(GROUP, manifest.to_bytes(), new=True)
    progress.finish()


def _proven(files: ChunkFiles, name: str, digest: str) -> bytes:
    """The bytes of a file; UserError unless they have the digest."""
    data = files.get(name)
    found = "no such file" if data is None else digest_of(data)
    if data is None or found != digest:
        raise UserError(
            f"{files.place}/{name} is damaged: found {found}, expected {digest}; run `cckt cache verify DATA "
            "--repair` first, with DATA its data set."
        )
    return data
