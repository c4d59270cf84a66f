"""The column `text`: concepts as the teacher reads them (METHOD.md section 3), or a table made elsewhere."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.progress import Progress, Silent
from cckt.cache_builder.columns.options import as_teacher, check_numbers, place
from cckt.cache_builder.columns.report import CacheReport, report_of
from cckt.cache_builder.index import Index, open_index
from cckt.cache_builder.runner import Item, run_chunks
from cckt.cache_builder.store import ColumnName, ColumnSpec, check_label, open_writer
from cckt.cache_builder.teacher.clip import Teacher
from cckt.cache_builder.teacher.prompts import embed_concepts, resolve_templates, unit_rows
from cckt.cache_builder.vocabulary import Concept, Vocabulary

CHUNK_ROWS = 64
"""Concepts a chunk: 768 sentences with the default ensemble."""

SENTENCES = 256
"""Sentences that the teacher reads at once."""


def cache_text(
    data: Path,
    teacher: str | Teacher | None = None,
    *,
    name: str = "",
    templates: str | Path | Sequence[str] = "ensemble12",
    synonyms: bool = False,
    device: str = "auto",
    precision: str = "fp32",
    import_file: Path | None = None,
    part: tuple[int, int] | None = None,
    chunk_rows: int = CHUNK_ROWS,
    overwrite: bool = False,
    out: Path | str | None = None,
    progress: Progress | None = None,
) -> CacheReport:
    """Make the column `text` of the data set `data`: (C, D) float32 unit, row c the concept of row c.

    templates: "single", "ensemble12", "imagenet80", a file, or a list of sentences with {}. synonyms:
    average over a concept's synonyms too, not over its name alone. name: the column is `text-NAME`, beside
    another teacher's `text`.

    import_file: take the rows from a table made elsewhere (see `read_table`), normalised on the way in;
    `templates` and `synonyms` then do not apply. `teacher` says whose embedding space the table is in:
    without it the column cannot be compared with one of images, so no CLIP priors can be made from it.

    out: where the column goes, if not into the data set's folder: a folder or a URL (s3://, gs://, memory://).

    The same call goes on where a killed one stopped. Raises UserError for what the user can mend.
    """
    check_numbers(SENTENCES, 0, part)
    index = open_index(data)
    if teacher is None and import_file is None:
        raise UserError(
            "no teacher is named; give --teacher NAME, or --import FILE for a table made elsewhere."
        )
    known = None if teacher is None else as_teacher(teacher, device, precision)
    recipe: dict[str, Any] = {"normalisation": "unit", "teacher": known.recipe() if known else None}
    if import_file is not None:
        table = read_table(Path(import_file), index.concepts)
        if known is not None and table.shape[1] != known.width:
            raise UserError(
                f"{import_file} holds rows of {table.shape[1]} values, but embeddings of teacher "
                f"{known.name} have {known.width}; name the teacher that the table was made with."
            )
        recipe["import"] = {"file": Path(import_file).name, "digest": _file_digest(Path(import_file))}
        width = table.shape[1]

        def embed(rows: list[int]) -> NDArray[np.float32]:
            return table[rows]
    else:
        assert known is not None
        chosen, width = resolve_templates(templates), known.width
        recipe["templates"] = {"name": chosen.name, "patterns": chosen.patterns, "digest": chosen.digest}
        recipe["synonyms"] = synonyms
        recipe["batch"] = SENTENCES

        def embed(rows: list[int]) -> NDArray[np.float32]:
            concepts = [index.concepts[row] for row in rows]
            return embed_concepts(concepts, chosen, known.encode_texts, synonyms=synonyms)

    spec = ColumnSpec(
        name=str(ColumnName("text", check_label(name))),
        table="concepts",
        rows=len(index.concepts),
        width=width,
        dtype="float32",
        chunk_rows=chunk_rows,
        index_digest=index.digest,
        recipe=recipe,
    )

    def read(lo: int, hi: int) -> Iterable[Item]:
        return [Item(row, row) for row in range(lo, hi)]

    progress = progress or Silent()
    writer = open_writer(place(data, out), spec, overwrite=overwrite)
    run = run_chunks(
        writer, read, embed, batch=spec.chunk_rows, workers=0, part=part, progress=progress, unit="concepts"
    )
    return report_of(writer, run, progress, _same_wordings(index) if import_file is None else ())


def embed_vocabulary(
    concepts: Sequence[Concept],
    teacher: Teacher,
    templates: str | Path | Sequence[str] = "ensemble12",
    *,
    synonyms: bool = False,
) -> NDArray[np.float32]:
    """(C, D) float32 unit embeddings of any concepts, such as a typed-in vocabulary; no files are touched."""
    return embed_concepts(concepts, resolve_templates(templates), teacher.encode_texts, synonyms=synonyms)


def read_table(path: Path, concepts: Vocabulary) -> NDArray[np.float32]:
    """(C, D) float32 unit rows from a table made elsewhere.

    .npy: one (C, D) array. .safetensors and .pt: one (C, D) tensor, alone or in a dictionary of one, or a
    dictionary of C vectors (D,) under the concepts' names or category ids. Rows are in the order of category
    ids, as the index has them. No pickled code is run: allow_pickle=False, weights_only=True.

    Raises UserError: the file cannot be read so; rows that do not fit the concepts; NaN, infinity or a row
    of zeros.
    """
    table = _by_row(path, _load(path), concepts)
    if table.ndim != 2 or table.shape[1] < 1:
        raise UserError(
            f"{path} holds an array of shape {table.shape}; a table of embeddings is ({len(concepts)}, D)."
        )
    if len(table) != len(concepts):
        turned = "; it looks transposed" if table.shape[1] == len(concepts) else ""
        raise UserError(
            f"{path} holds {len(table)} rows where the data set has {len(concepts)} concepts{turned}; "
            "give one row per category in the order of category ids."
        )
    if table.dtype.kind not in "fiu":
        raise UserError(f"{path} holds values of type {table.dtype}; embeddings are real numbers.")
    rows = table.astype(np.float64)
    bad = ~np.isfinite(rows).all(axis=1) | ~rows.any(axis=1)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        what = "is all zeros" if np.isfinite(rows[row]).all() else "holds NaN or infinity"
        raise UserError(
            f"{path}: row {row} ({concepts[row].name}) {what}, as {int(bad.sum())} of {len(rows)} rows do; "
            "every concept needs a direction."
        )
    return unit_rows(rows)


def _load(path: Path) -> Any:
    """What a file holds: an array, or a mapping from names to arrays."""
    import torch
    from safetensors.numpy import load_file

    if not path.is_file():
        raise UserError(
            f"{path} is not a file; --import takes a .npy, .pt or .safetensors table of embeddings."
        )
    try:
        match path.suffix:
            case ".npy":
                return np.load(path, allow_pickle=False)
            case ".safetensors":
                return load_file(path)
            case ".pt" | ".pth":
                return _as_arrays(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as fault:  # each reader has its own kinds of complaint
        reason = (str(fault).strip() or type(fault).__name__).splitlines()[0].rstrip(".")
        raise UserError(
            f"{path} cannot be read as {path.suffix} ({reason}); give plain tensors, which need no pickled "
            "code."
        ) from fault
    raise UserError(f"{path} is neither .npy, .pt nor .safetensors; save the table as one of them.")


def _as_arrays(held: Any) -> Any:
    import torch

    if isinstance(held, Mapping):
        return {key: _as_arrays(value) for key, value in held.items()}
    if not isinstance(held, torch.Tensor):
        raise TypeError(f"it holds a {type(held).__name__}, not a tensor")
    return held.detach().to(torch.float32 if held.is_floating_point() else held.dtype).numpy()


def _by_row(path: Path, held: Any, concepts: Vocabulary) -> NDArray[Any]:
    """One array in row order, from an array, a mapping of one, or a mapping of C vectors."""
    if not isinstance(held, Mapping):
        return np.asarray(held)
    if len(held) == 1 and next(iter(held.values())).ndim == 2:
        return np.asarray(next(iter(held.values())))
    vectors = {str(key): value for key, value in held.items()}
    rows = []
    for concept in concepts:
        vector = vectors.get(concept.name, vectors.get(str(concept.category_id)))
        if vector is None or vector.ndim != 1:
            raise UserError(
                f"{path} holds {len(held)} tensors, but no vector for {concept.name!r} (category "
                f"{concept.category_id}); give one (C, D) tensor, or a vector under each concept's name or "
                "category id."
            )
        rows.append(vector)
    if len({len(row) for row in rows}) > 1:
        raise UserError(
            f"{path} holds vectors of different lengths; all concepts need the same number of values."
        )
    return np.stack(rows) if rows else np.zeros((0, 1), np.float32)


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def _same_wordings(index: Index) -> list[str]:
    """A note for concepts that are said alike: no teacher can tell them apart."""
    from cckt.cache_builder.teacher.prompts import spoken

    first: dict[str, str] = {}
    notes = []
    for concept in index.concepts:
        words = spoken(concept.name).lower()
        if words in first:
            notes.append(f"concepts {first[words]!r} and {concept.name!r} get the same embedding")
        first.setdefault(words, concept.name)
    return notes
