"""The column `priors/mllm`: how likely each concept is in each photo, as a multimodal LLM answers."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.progress import Progress, Silent
from cckt.cache_builder.columns.options import check_numbers, place
from cckt.cache_builder.columns.report import CacheReport, report_of
from cckt.cache_builder.index import Index, open_index
from cckt.cache_builder.mllm.calibrate import Calibration, fit_calibration, rounded
from cckt.cache_builder.mllm.load import Mllm, default_model, load_mllm
from cckt.cache_builder.mllm.prefilter import Prefilter, open_prefilter
from cckt.cache_builder.mllm.questions import PROMPT, Questions, check_prompt
from cckt.cache_builder.mllm.scorer import Scorer, sigmoid
from cckt.cache_builder.mllm.yes_no_tokens import LEAST_SHARE, LOW_SHARE
from cckt.cache_builder.photos import check_photos, load_or_reason
from cckt.cache_builder.runner import Item, run_chunks
from cckt.cache_builder.store import ColumnSpec, column_info, list_columns, open_writer

NAME = "priors/mllm"
CHUNK_ROWS = 64
"""Rows a chunk: a kill costs a minute of a large model."""

PROBES = 4
"""Photos on which the share of yes and no is measured before a run of hours begins."""


def cache_mllm_priors(
    data: Path,
    model: str | Mllm | None = None,
    *,
    prompt: str = PROMPT,
    device: str = "auto",
    dtype: str = "fp32",
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
) -> CacheReport:
    """Make the column `priors/mllm` of the data set `data`: (I, C) float32, P(yes) / (P(yes) + P(no)).

    model: "shapeworld", a folder, an id on the hub, or a loaded one; None: shapeworld's for its worlds, else
    `DEFAULT_MODEL`. prompt: the question, with {concept} for the name. dtype: fp32, bf16, fp16. block:
    questions at a time (default: as many as pay; halved when memory runs out). prefilter: "clip:K" asks about
    the K likeliest by the column `priors/clip`, the others get 0. calibrate: a training data set on whose
    base concepts temperature and bias are fitted. workers: threads that decode and preprocess. A photo that
    cannot be read leaves its row invalid; `strict` stops instead. part: (i, n), the i-th of n makers; None:
    torchrun's rank, else all.

    The same call goes on where a killed one stopped. Raises UserError for what the user can mend.
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
        "backend": "transformers",  # the only one; columns have held the key since there were two
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
    spec = ColumnSpec(
        name=NAME,
        table="images x concepts",
        rows=len(index),
        width=len(index.concepts),
        dtype="float32",
        unit=False,
        has_valid=True,
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

    writer = open_writer(columns, spec, overwrite=overwrite)
    run = run_chunks(
        writer,
        read,
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
            f"{len(mapper.shares)} photos)"
        )
    return report_of(writer, run, progress, [*scorer.notes, *notes], strict=strict, photos=len(index))


class Mapper:
    """What the runner maps with: the questions about a photo -> its (1, C) row.

    shares: of each photo, the median share of probability on yes and no.
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
            asked = self._prefilter.concepts(row) if self._prefilter else None
            concepts = list(range(self._width)) if asked is None else asked
            scores = self._scorer.score(about, concepts)
            self.shares.append(float(np.median(scores.share)))
            rows[at, concepts] = calibrated(scores.logit, self._calibration)
        return rows


def calibrated(logit: NDArray[np.float32], calibration: dict[str, Any] | None) -> NDArray[np.float32]:
    """Logits -> probabilities, by a calibration as a recipe holds it, or as they are."""
    if calibration is None:
        return sigmoid(logit)
    return Calibration(**calibration)(logit)


def probe(index: Index, questions: Questions, scorer: Scorer) -> float:
    """Median share of probability on yes and no over all questions about the first photos that can be read.

    Two digits: what other machines and dtypes agree on. 1.0 where no photo can be read.
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
    """A line of warning where a model seldom answers yes or no; UserError where it practically never does."""
    if share < LEAST_SHARE:
        raise UserError(
            f"--mllm-model {mllm.name} answers neither yes nor no: they hold {share:.2f} of the probability "
            f"(median), expected at least {LEAST_SHARE}; give another --mllm-prompt or another model."
        )
    if share < LOW_SHARE:
        return (
            f"warning: yes and no hold only {share:.2f} of the probability (median over {PROBES} photos); "
            "another --mllm-prompt may suit this model better"
        )
    return None


def measured_before(columns: Path | str, index: Index, recipe: dict[str, Any]) -> dict[str, Any] | None:
    """What an earlier maker of the same column measured: share and calibration are measured once, or the
    rounding of another machine would make another column of it.
    """
    if NAME not in list_columns(columns):
        return None
    spec = column_info(columns, NAME).manifest.spec
    found = dict(spec.recipe)
    measured = found.pop("measured", None)
    same = found == recipe and spec.index_digest == index.digest
    return dict(measured) if same and isinstance(measured, dict) else None
