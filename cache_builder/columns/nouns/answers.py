"""The column `proposals/answers`: what a multimodal LLM answers when it is to name each proposal.

docs/method/hd_ovd.md, section 3. A row is the UTF-8 text of the answer, padded with zeros to `WIDTH` bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.progress import Progress
from cckt.cache_builder.columns.crops import SMALL, photo_spans
from cckt.cache_builder.columns.growth.begin import begin_column, require_same_bytes
from cckt.cache_builder.columns.images import CopyingReader
from cckt.cache_builder.columns.report import CacheReport, report_of
from cckt.cache_builder.columns.views import usable_boxes
from cckt.cache_builder.mllm.namer import Namer
from cckt.cache_builder.mllm.wrapping import Inputs
from cckt.cache_builder.photos import check_photos, load_or_reason
from cckt.cache_builder.proposals import Proposals
from cckt.cache_builder.proposals.noun_phrases import noun_of
from cckt.cache_builder.proposals.nouns import ANSWERS
from cckt.cache_builder.runner import Item, run_chunks
from cckt.cache_builder.runner.engines.engine import makes_rows
from cckt.cache_builder.store import ColumnName, ColumnSpec, column_spec
from cckt.cache_builder.teacher.crop_rules import RULES, crop_rectangles

WIDTH = 96
"""Bytes of an answer that are kept."""

BATCH = 16
"""Crops that the model names together, unless memory is short."""

CHUNK_ROWS = 128
"""Proposals of a chunk: about a minute of a large model, which is at most computed again after a kill."""

PROBES = 16
"""Proposals that are named before a long run begins."""

NOT_ASKED = "the model was not asked to name it"
"""Why a proposal has no answer under `--ask`."""


@dataclass(frozen=True)
class CropPictures:
    """Reads the crops of proposals as the model's inputs."""

    proposals: Proposals
    prepare: Callable[[Image.Image], Inputs]
    crop: str
    asked: NDArray[np.bool_]
    """(P,) proposals that the model is to name."""
    strict: bool = False

    def __call__(self, lo: int, hi: int) -> Iterable[Item]:
        """Return the items of proposals [lo, hi) of one photo."""
        table = self.proposals
        usable = usable_boxes(table, lo, hi)
        items = [Item(row, reason=SMALL) for row in (lo + np.flatnonzero(~usable)).tolist()]
        asked = self.asked[lo:hi]
        items += [Item(row, reason=NOT_ASKED) for row in (lo + np.flatnonzero(usable & ~asked)).tolist()]
        rows = lo + np.flatnonzero(usable & asked)
        if not len(rows):
            return items
        photo = load_or_reason(table.index, int(table.box_images[lo]), strict=self.strict)
        if isinstance(photo, str):
            return items + [Item(row, reason=photo) for row in rows.tolist()]
        rectangles = crop_rectangles(table.box_xyxy[rows], photo.size, self.crop)
        for row, (left, top, right, bottom) in zip(rows.tolist(), rectangles.tolist(), strict=True):
            items.append(Item(row, self.prepare(photo.crop((left, top, right, bottom)))))
        return items


def cache_answers(
    data: Path,
    proposals: Proposals,
    namer: Namer,
    *,
    crop: str,
    ask: int | None,
    workers: int,
    strict: bool,
    part: tuple[int, int] | None,
    chunk_rows: int,
    overwrite: bool,
    reuse: str,
    progress: Progress,
) -> CacheReport:
    """Make the column; options as in `cache_nouns`.

    Answers about the same photo, box and request are copied from the column over older proposals.

    Raises UserError if all proposals are too small, and if the first answers of the model name nothing.
    """
    usable = usable_boxes(proposals)
    if not usable.any():
        raise UserError(
            f"{data}: all {len(proposals)} proposals are under {RULES[crop]['min_side']:g} px on a side, "
            "expected larger ones that a model can name; make them again with a larger --min-side or from "
            "another source, and --overwrite."
        )
    asked = asked_of(proposals, usable, ask)
    check_photos(proposals.index, np.unique(proposals.box_images[asked]))
    spec = answers_spec(proposals, namer, crop, ask, chunk_rows)
    # A sample is another one for other proposals, so its answers are not copied.
    copies = ask is None
    growth = begin_column(data, data, spec, proposals, overwrite=overwrite, reuse=reuse, copies=copies)
    writer, donor = growth.writer, growth.donor
    reader = CropPictures(proposals, namer.inputs, crop, asked, strict)
    if donor is None and len(writer.missing()) == writer.n_chunks and makes_rows():
        probe(namer, reader, asked)

    def answer(items: list[Inputs]) -> NDArray[np.uint8]:
        return as_rows(namer.answers(items))

    def spans(lo: int, hi: int) -> list[tuple[int, int]]:
        found = photo_spans(proposals.box_images[lo:hi], lo)
        return donor.long_spans(found) if donor is not None else found

    require_same_bytes(growth, reader, answer, reuse)
    run = run_chunks(
        writer,
        reader if donor is None else CopyingReader(reader, donor),
        answer,
        batch=BATCH,
        spans=spans,
        workers=workers,
        part=part,
        progress=progress,
        unit="proposals",
    )
    growth.finish(run.manifest)
    photos = len(np.unique(proposals.box_images[asked]))
    expected = (SMALL, NOT_ASKED)
    return report_of(writer, run, progress, namer.notes, strict=strict, expected=expected, photos=photos)


def asked_of(proposals: Proposals, usable: NDArray[np.bool_], ask: int | None) -> NDArray[np.bool_]:
    """Return (P,) which proposals the model is to name: all usable ones, or `ask` of those that do not repeat
    an annotation, spread evenly over the table (of all usable ones, if each repeats one)."""
    if ask is None:
        return usable
    rows = np.flatnonzero(usable & ~proposals.repeats)
    if not len(rows):
        rows = np.flatnonzero(usable)
    asked = np.zeros(len(usable), np.bool_)
    asked[rows[np.linspace(0, len(rows) - 1, min(ask, len(rows))).round().astype(np.int64)]] = True
    return asked


def answers_spec(
    proposals: Proposals, namer: Namer, crop: str, ask: int | None = None, chunk_rows: int = CHUNK_ROWS
) -> ColumnSpec:
    """Return the spec of the column."""
    limit = {} if ask is None else {"ask": ask}
    return column_spec(
        ColumnName(ANSWERS, of=proposals.label),
        rows=len(proposals),
        width=WIDTH,
        chunk_rows=chunk_rows,
        index_digest=proposals.digest,
        recipe={**namer.recipe(), "crop": RULES[crop], "batch": BATCH, "bytes": WIDTH, **limit},
    )


def probe(namer: Namer, reader: CropPictures, usable: NDArray[np.bool_]) -> None:
    """Name some proposals. Raises UserError if the model names none of them."""
    rows = np.flatnonzero(usable)
    chosen = rows[np.unique(np.linspace(0, len(rows) - 1, min(PROBES, len(rows))).astype(int))]
    crops = [item.data for row in chosen.tolist() for item in reader(row, row + 1) if item.data is not None]
    answers = namer.answers(crops)
    if crops:
        require_nouns(namer.mllm.name, answers, [noun_of(answer) for answer in answers])


def require_nouns(model: str, answers: Sequence[str], nouns: Sequence[tuple[str, str]]) -> None:
    """Raise UserError if no answer has a noun, with the most frequent reason."""
    if any(noun for noun, _ in nouns):
        return
    reason, count = Counter(why for _, why in nouns).most_common(1)[0]
    example = next(answer for answer, (_, why) in zip(answers, nouns, strict=True) if why == reason)
    raise UserError(
        f"--mllm-model {model} names nothing: none of {len(nouns)} answers has a noun ({count}: {reason}, as "
        f"in {example[:60]!r}), expected names of objects; give another --prompt or another model."
    )


def as_rows(answers: Sequence[str]) -> NDArray[np.uint8]:
    """Return (n, WIDTH) uint8 rows; a longer answer is cut between characters."""
    rows = np.zeros((len(answers), WIDTH), np.uint8)
    for row, answer in enumerate(answers):
        text = answer.replace("\0", " ").encode("utf-8", "replace")[:WIDTH]
        text = text.decode("utf-8", "ignore").encode("utf-8")
        rows[row, : len(text)] = np.frombuffer(text, np.uint8)
    return rows
