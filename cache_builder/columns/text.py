"""The column `text`: the teacher's embedding of every concept, or an imported table.

docs/method/cckt_det.md, eq. 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cckt.cache_builder.base.constants import BATCH, PRECISION, TEMPLATES
from cckt.cache_builder.base.digests import file_digest
from cckt.cache_builder.base.errors import UserError, brief, counted
from cckt.cache_builder.base.progress import Progress, Silent
from cckt.cache_builder.base.untrusted.npy_files import read_npy
from cckt.cache_builder.base.untrusted.regular_files import require_regular
from cckt.cache_builder.columns.growth.begin import begin_column
from cckt.cache_builder.columns.options import as_teacher, check_numbers, place
from cckt.cache_builder.columns.remake import Made, Remake
from cckt.cache_builder.columns.report import CacheReport, report_of
from cckt.cache_builder.index import Index, open_index
from cckt.cache_builder.runner import Item, run_chunks
from cckt.cache_builder.store import ColumnName, check_label, column_spec
from cckt.cache_builder.teacher.clip import Teacher
from cckt.cache_builder.teacher.prompts import embed_concepts, resolve_templates, spoken, unit_rows
from cckt.cache_builder.vocabulary import Vocabulary

CHUNK_ROWS = 64
"""Concepts of a chunk: 768 sentences with the default ensemble."""


def cache_text(
    data: Path,
    teacher: str | Teacher | None = None,
    *,
    name: str = "",
    templates: str | Path | Sequence[str] = TEMPLATES,
    synonyms: bool = False,
    device: str = "auto",
    precision: str = PRECISION,
    import_file: Path | None = None,
    part: tuple[int, int] | None = None,
    chunk_rows: int = CHUNK_ROWS,
    overwrite: bool = False,
    out: Path | str | None = None,
    progress: Progress | None = None,
    reuse: str = "same",
    held: bool = False,
) -> CacheReport:
    """Make the column `text` of the data set `data`: (C, D) float32 unit, row c for concept c.

    templates: "single", "ensemble12", "imagenet80", a file, or a list of sentences with {}. synonyms: take
    the mean over a concept's synonyms too. name: label of a second teacher; the column is `text-NAME`.

    import_file: take the rows from a table (see `read_table`) and make them unit; `templates` and `synonyms`
    then do not apply. `teacher` names the teacher that the table was made with: without it the column cannot
    be compared with one of images, so that no CLIP priors can be made from it.

    out: place of the column, if not the data set's folder: a folder or a URL (s3://, gs://, memory://).

    A column of an earlier index of the data set stays in its place until this one is finished. Its rows
    are made again, because the last bits of a row depend on the other sentences of its batch. reuse, held:
    see `begin_column`.

    After a kill the same call resumes. Raises UserError for what the user can correct.
    """
    check_numbers(BATCH, 0, part)
    index = open_index(data)
    if teacher is None and import_file is None:
        raise UserError(
            "no teacher is named; give --teacher NAME, or --import FILE for a table made elsewhere."
        )
    loaded = None if teacher is None else as_teacher(teacher, device, precision)
    recipe: dict[str, Any] = {"normalisation": "unit", "teacher": loaded.recipe() if loaded else None}
    if import_file is not None:
        table = read_table(Path(import_file), index.concepts)
        if loaded is not None and table.shape[1] != loaded.width:
            raise UserError(
                f"{import_file} holds rows of {table.shape[1]} values, but embeddings of teacher "
                f"{loaded.name} have {loaded.width}; name the teacher that the table was made with."
            )
        recipe["import"] = {"file": Path(import_file).name, "digest": file_digest(Path(import_file))}
        width = table.shape[1]

        def embed(rows: list[int]) -> NDArray[np.float32]:
            return table[rows]
    else:
        assert loaded is not None
        chosen, width = resolve_templates(templates), loaded.width
        recipe["templates"] = {"name": chosen.name, "patterns": chosen.patterns, "digest": chosen.digest}
        recipe["synonyms"] = synonyms
        recipe["batch"] = BATCH

        def embed(rows: list[int]) -> NDArray[np.float32]:
            concepts = [index.concepts[row] for row in rows]
            return embed_concepts(concepts, chosen, loaded.encode_texts, synonyms=synonyms)

    spec = column_spec(
        ColumnName("text", check_label(name)),
        rows=len(index.concepts),
        width=width,
        chunk_rows=chunk_rows,
        index_digest=index.digest,
        recipe=recipe,
    )

    progress = progress or Silent()
    growth = begin_column(
        data, place(data, out), spec, index, overwrite=overwrite, reuse=reuse, copies=False, held=held
    )
    writer = growth.writer

    def read(lo: int, hi: int) -> Iterable[Item]:
        return [Item(row, row) for row in range(lo, hi)]

    run = run_chunks(
        writer, read, embed, batch=spec.chunk_rows, workers=0, part=part, progress=progress, unit="concepts"
    )
    growth.finish(run.manifest)
    return report_of(writer, run, progress, _same_wordings(index) if import_file is None else ())


def remake_text(made: Made) -> Remake | None:
    """See `recompute.REMAKE`."""
    teacher = made.teacher()
    if teacher is None:
        return None
    templates = resolve_templates(made.spec.recipe["templates"]["patterns"])
    synonyms, concepts = bool(made.spec.recipe.get("synonyms")), made.index.concepts
    return lambda rows: embed_concepts(
        [concepts[int(row)] for row in rows], templates, teacher.encode_texts, synonyms=synonyms
    )


def read_table(path: Path, concepts: Vocabulary) -> NDArray[np.float32]:
    """Return the rows of an imported table, (C, D) float32 unit.

    .npy: one (C, D) array. .safetensors and .pt: one (C, D) tensor, also in a dictionary of one, or a
    dictionary of C vectors (D,) under the concepts' names or category ids. Rows are in the order of category
    ids, as in the index. No pickled code is executed: allow_pickle=False, weights_only=True.

    Raises UserError if the file cannot be read, its rows do not fit the concepts, or a row is non-finite or
    zero.
    """
    table = _by_row(path, _load(path), concepts)
    if table.ndim != 2 or table.shape[1] < 1:
        raise UserError(
            f"{path} holds an array of shape {table.shape}; a table of embeddings is ({len(concepts)}, D)."
        )
    if len(table) != len(concepts):
        turned = "; it may be transposed" if table.shape[1] == len(concepts) else ""
        raise UserError(
            f"{path} holds {counted(len(table), 'row')} where the data set has "
            f"{counted(len(concepts), 'concept')}{turned}; "
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
            f"{path}: row {row} ({concepts[row].name}) {what} (so in {int(bad.sum())} of {len(rows)} rows); "
            "expected a vector with a direction for every concept."
        )
    return unit_rows(rows)


def _load(path: Path) -> Any:
    """The content of a file: an array, or a mapping from names to arrays."""
    import torch
    from safetensors.numpy import load_file

    if not path.is_file():
        raise UserError(
            f"{path} is not a file; --import takes a .npy, .pt or .safetensors table of embeddings."
        )
    try:
        match path.suffix:
            case ".npy":
                return read_npy(path)
            case ".safetensors":
                return load_file(require_regular(path))
            case ".pt" | ".pth":
                return _as_arrays(torch.load(require_regular(path), map_location="cpu", weights_only=True))
    except Exception as fault:  # each reader raises its own kinds of exceptions
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
    nested = next((key for key, value in held.items() if isinstance(value, Mapping)), None)
    if nested is not None:
        raise UserError(
            f"{path} holds a table of tables (the first is {brief(nested)}), expected one (C, D) tensor, "
            "or a vector under each concept's name or category id; save the tensors alone."
        )
    if len(held) == 1 and next(iter(held.values())).ndim == 2:
        return np.asarray(next(iter(held.values())))
    vectors = {str(key): value for key, value in held.items()}
    rows = []
    for concept in concepts:
        vector = vectors.get(concept.name, vectors.get(str(concept.category_id)))
        if vector is None or vector.ndim != 1:
            raise UserError(
                f"{path} holds {counted(len(held), 'tensor')}, but no vector for {concept.name!r} (category "
                f"{concept.category_id}); give one (C, D) tensor, or a vector under each concept's name or "
                "category id."
            )
        rows.append(vector)
    if len({len(row) for row in rows}) > 1:
        raise UserError(
            f"{path} holds vectors of different lengths; all concepts need the same number of values."
        )
    return np.stack(rows) if rows else np.zeros((0, 1), np.float32)


def _same_wordings(index: Index) -> list[str]:
    """A note for each pair of concepts with the same wording, and so the same embedding."""
    first: dict[str, str] = {}
    notes = []
    for concept in index.concepts:
        words = spoken(concept.name).lower()
        if words in first:
            notes.append(f"concepts {first[words]!r} and {concept.name!r} get the same embedding")
        first.setdefault(words, concept.name)
    return notes
