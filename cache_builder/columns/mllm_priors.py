"""The column `priors/mllm`: the probability of each concept in each image by a multimodal LLM's answers.

docs/method/cckt_det.md, eq. 6, and eq. 31 with calibration.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cckt.cache_builder.base.constants import PRECISION, PROMPT
from cckt.cache_builder.base.errors import UserError, counted
from cckt.cache_builder.base.logistic import rounded
from cckt.cache_builder.base.progress import Progress, Silent
from cckt.cache_builder.columns.growth.begin import begin_column, require_same_bytes
from cckt.cache_builder.columns.growth.donor import Donor
from cckt.cache_builder.columns.images import CopyingReader
from cckt.cache_builder.columns.options import check_numbers, place
from cckt.cache_builder.columns.report import CacheReport, report_of
from cckt.cache_builder.index import Index, open_index
from cckt.cache_builder.mllm.calibrate import Calibration, fit_calibration
from cckt.cache_builder.mllm.load import Mllm, default_model, load_mllm
from cckt.cache_builder.mllm.prefilter import Prefilter, open_prefilter
from cckt.cache_builder.mllm.questions import Questions, check_prompt
from cckt.cache_builder.mllm.scorer import Scorer, sigmoid
from cckt.cache_builder.mllm.yes_no_tokens import LEAST_SHARE, LOW_SHARE
from cckt.cache_builder.photos import check_photos, load_or_reason
from cckt.cache_builder.runner import Item, run_chunks
from cckt.cache_builder.store import ColumnName, column_info, column_spec, list_columns, staged_manifest

NAME = "priors/mllm"
CHUNK_ROWS = 64
"""Images of a chunk: about a minute of a large model, which is at most computed again after a kill."""

PROBES = 4
"""Photos on which the share of yes and no is measured before a long run begins."""


def cache_mllm_priors(
    data: Path,
    model: str | Mllm | None = None,
    *,
    prompt: str = PROMPT,
    device: str = "auto",
    dtype: str = PRECISION,
    block: int | None = None,
    prefilter: str | None = None,
    calibrate: Path | None = None,
    trust_remote_code: bool = False,
    workers: int | None = None,
    strict: bool = False,
    part: tuple[int, int] | None = None,
    chunk_rows: int = CHUNK_ROWS,
    overwrite: bool = False,
    out: Path | str | None = None,
    progress: Progress | None = None,
    reuse: str = "same",
    reuse_from: Path | str | None = None,
) -> CacheReport:
    """Make the column `priors/mllm` of the data set `data`: (I, C) float32, P(yes) / (P(yes) + P(no)).

    model: "shapeworld", a folder, an id on the hub, or a loaded model; None: shapeworld's for its data sets,
    otherwise `DEFAULT_MODEL`. prompt: the question, with {concept} for the name. dtype: fp32, bf16, fp16.
    block: questions at a time (default: the fastest number; halved when memory runs out). prefilter: "clip:K"
    asks only about the K most likely concepts of the column `priors/clip`; the others get 0. calibrate: a
    training data set on whose base concepts temperature and bias are fitted. workers: threads that decode and
    preprocess. A photo that cannot be read leaves an invalid row; `strict` stops instead. part: (i, n), the
    i-th of n makers; None: torchrun's rank, otherwise everything.

    If the place holds the finished column of an earlier index with the same concepts, its rows of unchanged
    photos are copied; a few are made again to compare them. reuse, reuse_from: see `begin_column`.

    After a kill the same call resumes. Raises UserError for what the user can correct.
    """
    workers = check_numbers(1, workers, part)
    check_prompt(prompt)
    progress = progress or Silent()
    index = open_index(data)
    check_photos(index)
    columns = place(data, out)
    chosen = open_prefilter(columns, prefilter, index) if prefilter else None
    mllm = model
    if not isinstance(mllm, Mllm):
        name = mllm or default_model(data)
        mllm = load_mllm(name, device=device, dtype=dtype, trust_remote_code=trust_remote_code)
    scorer = Scorer(mllm, block=block, progress=progress)
    questions = Questions(mllm, index.concepts.names, prompt)
    recipe: dict[str, Any] = {
        "formula": "P(yes) / (P(yes) + P(no))",
        "model": mllm.recipe(),
        "backend": "transformers",  # the only one; recipes keep the key
        **questions.recipe(),
        "answers": mllm.yes_no.recipe(),
        "prefilter": chosen.recipe() if chosen else None,
        "calibrated_on": open_index(calibrate).digest if calibrate else None,
    }
    notes = [mllm.yes_no.summary()]
    if chosen:
        notes.append(chosen.summary(index))
    measured = None if overwrite else measured_before(columns, index, recipe)
    if measured is None:
        measured = {"share": probe(index, questions, scorer)}
        if calibrate:
            fitted = fit_calibration(calibrate, scorer, prompt, progress=progress)
            notes.append(fitted.summary())
            measured["calibration"] = fitted.recipe()
        measured = (None if overwrite else measured_before(columns, index, recipe)) or measured
    low = check_share(measured["share"], mllm)
    if low:
        notes.append(low)
    spec = column_spec(
        ColumnName(NAME),
        rows=len(index),
        width=len(index.concepts),
        chunk_rows=chunk_rows,
        index_digest=index.digest,
        recipe={**recipe, "measured": measured},
    )
    mapper = Mapper(scorer, chosen, measured.get("calibration"), len(index.concepts))

    def read(lo: int, hi: int) -> Iterable[Item]:
        for row in range(lo, hi):
            photo = load_or_reason(index, row, strict=strict)
            if isinstance(photo, str):
                yield Item(row, reason=photo)
            else:
                yield Item(row, (row, questions.for_image(photo)))

    growth = begin_column(
        data,
        columns,
        spec,
        index,
        overwrite=overwrite,
        reuse=reuse,
        source=reuse_from,
        changing=("measured",),
    )
    writer, donor = growth.writer, growth.donor
    if donor is not None and not _same_answers(donor, index, measured):
        donor = growth.donor = None
    require_same_bytes(growth, read, mapper, reuse, probes=1)
    run = run_chunks(
        writer,
        read if donor is None else CopyingReader(read, donor),
        mapper,
        batch=1,
        spans=lambda lo, hi: [(row, row + 1) for row in range(lo, hi)],
        workers=workers,
        part=part,
        progress=progress,
        unit="photos",
    )
    if mapper.shares:
        notes.append(
            f"yes and no held {np.median(mapper.shares):.3f} of the probability (median over "
            f"{counted(len(mapper.shares), 'photo')})"
        )
    growth.finish(run.manifest)
    return report_of(writer, run, progress, [*scorer.notes, *notes], strict=strict, photos=len(index))


def _same_answers(donor: Donor, index: Index, measured: dict[str, Any]) -> bool:
    """Whether a row of the older column of the same photo has the same values: concepts, calibration."""
    before = donor.rows.column.manifest.spec.recipe.get("measured", {})
    same_concepts = donor.old_index.concepts.names == index.concepts.names
    return same_concepts and before.get("calibration") == measured.get("calibration")


class Mapper:
    """The runner's map: the questions about a photo -> its (1, C) row.

    shares: for each photo, the median share of probability on yes and no.
    """

    def __init__(
        self, scorer: Scorer, prefilter: Prefilter | None, calibration: dict[str, Any] | None, width: int
    ) -> None:
        self.shares: list[float] = []
        self._scorer, self._prefilter, self._width = scorer, prefilter, width
        self._calibration = calibration

    def __call__(self, items: list[tuple[int, Any]]) -> NDArray[np.float32]:
        rows = np.zeros((len(items), self._width), np.float32)
        for at, (row, about) in enumerate(items):
            chosen = self._prefilter.concepts(row) if self._prefilter else None
            concepts = list(range(self._width)) if chosen is None else chosen
            scores = self._scorer.score(about, concepts)
            self.shares.append(float(np.median(scores.share)))
            rows[at, concepts] = calibrated(scores.logit, self._calibration)
        return rows


def calibrated(logit: NDArray[np.float32], calibration: dict[str, Any] | None) -> NDArray[np.float32]:
    """Return the probabilities of logits, with a calibration as a recipe holds it, or without (None)."""
    if calibration is None:
        return sigmoid(logit)
    return Calibration(**calibration)(logit)


def probe(index: Index, questions: Questions, scorer: Scorer) -> float:
    """Return the median share of probability on yes and no over all questions about the first photos.

    Rounded to two digits, on which other machines and dtypes agree. Photos that cannot be read are skipped;
    1.0 if none can.
    """
    shares: list[NDArray[np.float32]] = []
    for row in range(len(index)):
        photo = load_or_reason(index, row)
        if not isinstance(photo, str):
            shares.append(scorer.score(questions.for_image(photo)).share)
        if len(shares) == PROBES:
            break
    return round(rounded(float(np.median(np.concatenate(shares)))), 2) if shares else 1.0


def check_share(share: float, mllm: Mllm) -> str | None:
    """Return a warning if a model seldom answers yes or no; raise UserError if it practically never does."""
    if share < LEAST_SHARE:
        raise UserError(
            f"--mllm-model {mllm.name} answers neither yes nor no: they have {share:.2f} of the probability "
            f"(median), expected at least {LEAST_SHARE}; give another --mllm-prompt or another model."
        )
    if share < LOW_SHARE:
        return (
            f"warning: yes and no hold only {share:.2f} of the probability (median over {PROBES} photos); "
            "another --mllm-prompt may suit this model better"
        )
    return None


def measured_before(columns: Path | str, index: Index, recipe: dict[str, Any]) -> dict[str, Any] | None:
    """Return what an earlier maker of the same column measured; None if there is none.

    Share and calibration are measured once, because the rounding of another machine would change the recipe.
    """
    staged = staged_manifest(columns, NAME)  # begun next to an older column
    specs = [staged.spec] if staged is not None else []
    if NAME in list_columns(columns):
        specs.append(column_info(columns, NAME).manifest.spec)
    for spec in specs:
        found = dict(spec.recipe)
        measured = found.pop("measured", None)
        if found == recipe and spec.index_digest == index.digest and isinstance(measured, dict):
            return dict(measured)
    return None
