"""Staging: a finished column copied from one place to another, every chunk proven on the way."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.progress import Progress, Silent
from cckt.cache_builder.store.inspect import list_columns
from cckt.cache_builder.store.manifest import GROUP, read_manifest
from cckt.cache_builder.store.places.files import ChunkFiles, open_files
from cckt.cache_builder.store.reader import open_column
from cckt.cache_builder.store.spec import chunk_file, digest_of


@dataclass(frozen=True)
class PullReport:
    """What `pull` did."""

    columns: tuple[str, ...]
    fetched: int
    """Chunk files copied."""
    kept: int
    """Chunk files that were there already, proven by digest."""
    bytes: int
    """Bytes copied."""


def pull(
    source: Path | str,
    target: Path | str,
    names: Sequence[str] | None = None,
    *,
    workers: int = 8,
    progress: Progress | None = None,
) -> PullReport:
    """Copy finished columns (all, or `names`) between data sets in any two places, usually from a URL to a
    folder.

    Each chunk's digest is checked before it is placed; the manifest comes last. Killed anywhere, the same
    call goes on. Raises UserError: no column, an unfinished one, a damaged chunk, another column in the
    target's place.
    """
    progress = progress or Silent()
    chosen = list(names if names is not None else list_columns(source))
    if not chosen:
        raise UserError(f"There is no column under {source}: expected at least one, look at the address.")
    counts = [0, 0, 0]
    for name in chosen:
        _pull_one(source, target, name, workers, progress, counts)
    return PullReport(tuple(chosen), *counts)


def _pull_one(
    source: Path | str, target: Path | str, name: str, workers: int, progress: Progress, counts: list[int]
) -> None:
    manifest = open_column(source, name).manifest
    spec = manifest.spec
    origin, place = open_files(source, name), open_files(target, name)
    there = read_manifest(place)
    if there is not None and there.digest != manifest.digest:
        raise UserError(
            f"{place.place} holds another column: found digest {there.digest}, expected {manifest.digest}; "
            "remove it or pull into another folder."
        )
    if there is not None:
        counts[1] += spec.n_chunks * len(spec.arrays)
        return
    wanted = {
        chunk_file(array, chunk): digest
        for array, digests in manifest.chunks.items()
        for chunk, digest in enumerate(digests)
    }
    for document, digest in manifest.documents.items():
        place.put(document, _proven(origin, document, digest), new=True)
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
    place.put(GROUP, manifest.to_bytes(), new=True)
    progress.finish()


def _proven(files: ChunkFiles, name: str, digest: str) -> bytes:
    data = files.get(name)
    found = "no such file" if data is None else digest_of(data)
    if data is None or found != digest:
        raise UserError(
            f"{files.place}/{name} is damaged: found {found}, expected {digest}; run `cckt cache verify "
            "--repair` on its data set first."
        )
    return data
