"""Make the nouns of proposals: what `cckt cache nouns` runs.

docs/method/hd_ovd.md, section 3. Nouns come from the answers of a multimodal LLM (`answers.py`), are the best
ones of all that it answered by the teacher's cosines, or the best words of a list.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cckt.cache_builder.base.constants import CHOOSE, CROP, NAME_PROMPT, PRECISION, TEMPLATES, W_MAX
from cckt.cache_builder.base.errors import UserError, counted
from cckt.cache_builder.base.progress import Progress, Silent
from cckt.cache_builder.columns.crops import box_table
from cckt.cache_builder.columns.nouns.answers import (
    CHUNK_ROWS,
    answers_spec,
    cache_answers,
    require_nouns,
)
from cckt.cache_builder.columns.nouns.chosen import (
    Chosen,
    embed_names,
    require_replaceable,
    write_nouns,
    write_texts,
)
from cckt.cache_builder.columns.nouns.weights import NO_CROP, fit_nouns
from cckt.cache_builder.columns.nouns.word_list import nearest_words, read_words, require_teacher_of
from cckt.cache_builder.columns.options import as_teacher, check_numbers
from cckt.cache_builder.columns.report import CacheReport
from cckt.cache_builder.index import open_index
from cckt.cache_builder.mllm.load import Mllm, default_model, load_mllm
from cckt.cache_builder.mllm.namer import Namer
from cckt.cache_builder.proposals import Proposals
from cckt.cache_builder.proposals.leak import leak_notes
from cckt.cache_builder.proposals.noun_phrases import RULES, noun_of
from cckt.cache_builder.proposals.noun_weight import check_w_max
from cckt.cache_builder.proposals.nouns import ANSWERS, open_over, read_answers
from cckt.cache_builder.proposals.provenance import Provenance
from cckt.cache_builder.store import (
    Column,
    ColumnName,
    check_label,
    column_info,
    list_columns,
)
from cckt.cache_builder.store.kinds import PROPOSALS
from cckt.cache_builder.teacher.clip import Teacher
from cckt.cache_builder.teacher.crop_rules import check_rule
from cckt.cache_builder.teacher.prompts import Templates, resolve_templates
from cckt.cache_builder.teacher.recorded import require_own_teacher

CHOICES = ("answers", "teacher")
"""Who chooses the noun of a proposal."""


def cache_nouns(
    data: Path,
    model: str | Mllm | None = None,
    *,
    nouns_from: Path | None = None,
    choose: str = CHOOSE,
    ask: int | None = None,
    teacher: str | Teacher | None = None,
    of: str = PROPOSALS,
    name: str = "",
    prompt: str = NAME_PROMPT,
    crop: str = CROP,
    templates: str | Path | Sequence[str] | None = None,
    w_max: float = W_MAX,
    block: int | None = None,
    device: str = "auto",
    dtype: str = PRECISION,
    precision: str = PRECISION,
    trust_remote_code: bool = False,
    workers: int | None = None,
    strict: bool = False,
    part: tuple[int, int] | None = None,
    chunk_rows: int = CHUNK_ROWS,
    overwrite: bool = False,
    progress: Progress | None = None,
    reuse: str = "same",
) -> list[CacheReport]:
    """Make the nouns of the proposals of the data set `data`; return a report for each column.

    model: multimodal LLM, as `cache_mllm_priors` takes it. nouns_from: a word list instead, one a line, from
    which the teacher chooses by the column `proposals/crops`. choose: "answers" gives a proposal the noun of
    its own answer; "teacher" the one that is nearest to its crop, of all that the model answered and of the
    names of the annotated concepts. ask: most proposals that the model names, with choose "teacher"; None:
    all. teacher: of the text embeddings; None: that of
    `proposals/crops`, or of `text`. of: the proposals table. name: label of a second teacher. prompt: the
    request. crop: the rule by which the model sees a proposal. templates: None takes those of the column
    `text`. w_max: see `NounWeight`. block: crops at a time. dtype: of the model; precision: of the teacher.
    reuse: which answers of an older column are copied, see `begin_column`.

    The constants of the weight are fitted where the columns `text`, `crops` and `proposals/crops` exist;
    otherwise a note tells how. After a kill the same call resumes. Raises UserError for what the user can
    correct.
    """
    workers = check_numbers(1, workers, part)
    check_rule(crop)
    if crop == "oadp":
        raise UserError(
            "--crop oadp hides patches from a teacher, which a multimodal LLM cannot do; expected box or "
            "square, choose one of them."
        )
    check_label(name)
    progress = progress or Silent()
    index = open_index(data)
    proposals = box_table(data, index, of)
    if not isinstance(proposals, Proposals):
        raise UserError(f"--of {of}: nouns are of proposals; name proposals or proposals-NAME.")
    _check_choice(choose, ask)
    check_w_max(w_max)
    words = read_words(nouns_from) if nouns_from is not None else None
    chosen_templates = _templates(data, name, templates)
    loaded = as_teacher(teacher or _teacher_name(data, proposals, name), device, precision)
    if choose == "teacher":  # fails now instead of after the answers
        require_teacher_of(open_over(data, proposals, "proposals/crops", name), loaded)
    reports: list[CacheReport] = []
    if words is not None:
        texts = embed_names(words.names, chosen_templates, loaded)
        recipe = {"provenance": words.provenance.to_json(), "rules": RULES}
        chosen = _nearest(data, proposals, name, words.names, texts, loaded, recipe)
    else:
        mllm = model
        if not isinstance(mllm, Mllm):
            mllm = load_mllm(
                mllm or default_model(data), device=device, dtype=dtype, trust_remote_code=trust_remote_code
            )
        namer = Namer(mllm, prompt, batch=block, progress=progress)
        wanted = _recipe_of(answers_spec(proposals, namer, crop, ask).recipe, choose)
        if not overwrite:
            require_replaceable(data, proposals, name, wanted)
        for note in leak_notes(Provenance.from_recipe(wanted), index):  # before the model answers for hours
            progress.note(note)
        reports.append(
            cache_answers(
                data,
                proposals,
                namer,
                crop=crop,
                ask=ask,
                workers=workers,
                strict=strict,
                part=part,
                chunk_rows=chunk_rows,
                overwrite=overwrite,
                reuse=reuse,
                progress=progress,
            )
        )
        if reports[0].manifest is None:  # other parts have answers to make
            return reports
        chosen = _by_answers(open_over(data, proposals, ANSWERS), mllm)
        if choose == "teacher":
            chosen = _by_teacher(data, proposals, name, chosen, chosen_templates, loaded)
    notes = [
        f"{counted(len(chosen.names), 'different noun')}; "
        f"{counted(int((chosen.ids < 0).sum()), 'proposal')} without one",
        *leak_notes(Provenance.from_recipe(chosen.recipe), index),
    ]
    reports.append(write_nouns(data, proposals, name, chosen, overwrite, progress, notes))
    reports.append(write_texts(data, proposals, name, chosen, chosen_templates, loaded, overwrite, progress))
    reports.append(fit_nouns(data, of=of, name=name, w_max=w_max, progress=progress, optional=True))
    return reports


def _by_answers(answers: Column, mllm: Mllm) -> Chosen:
    """The nouns of the answers, numbered in order of their first proposal."""
    valid, spec = answers.valid_all(), answers.manifest.spec
    texts = read_answers(answers)
    nouns = [noun_of(text) for text in texts]
    named = np.flatnonzero(valid).tolist()
    if named:
        require_nouns(mllm.name, [texts[row] for row in named], [nouns[row] for row in named])
    else:
        raise UserError(
            f"column {spec.name} holds no answer: no photo of its {counted(len(texts), 'proposal')} could "
            "be read; "
            "make it again with --overwrite where the photos can be read."
        )
    numbers: dict[str, int] = {}
    ids = np.full(len(texts), -1, np.int64)
    notes, reasons = answers.manifest.notes, {}
    for row, (noun, reason) in enumerate(nouns):
        if valid[row] and noun:
            ids[row] = numbers.setdefault(noun, len(numbers))
        else:
            reasons[row] = reason if valid[row] else notes.get(row, "no answer")
    recipe = {**_recipe_of(spec.recipe), "answers": answers.manifest.digest}
    return Chosen(ids, list(numbers), reasons, recipe)


def _recipe_of(answers: Mapping[str, Any], choose: str = CHOOSE) -> dict[str, Any]:
    """Return what decides the nouns of answers with this recipe, besides the answers themselves."""
    model = answers["model"]
    provenance = Provenance("mllm", model["name"], model["weight_digest"])
    asked = {key: answers[key] for key in ("model", "prompt", "crop", "ask") if key in answers}
    chosen = {} if choose == CHOOSE else {"choose": choose}
    return {"provenance": provenance.to_json(), "rules": RULES, **asked, **chosen}


def _check_choice(choose: str, ask: int | None) -> None:
    """Raise UserError for options that do not go together."""
    if choose not in CHOICES:
        raise UserError(f"--choose {choose} is not known; expected one of {', '.join(CHOICES)}.")
    if ask is not None and choose != "teacher":
        raise UserError(
            f"--ask {ask} leaves proposals without an answer, which only --choose teacher can name; add it, "
            "or remove --ask."
        )
    if ask is not None and ask < 1:
        raise UserError(f"--ask is {ask}; give at least 1 proposal that the model names.")


def _by_teacher(
    data: Path, proposals: Proposals, label: str, said: Chosen, templates: Templates, teacher: Teacher
) -> Chosen:
    """The nearest noun of each proposal: of those in answers, and of the concepts with annotations.

    One answer in three is wrong for the crop at hand (docs/ablations.md), but a noun that one crop lacks was
    answered for another. Names of novel concepts are among them only if the model came up with them.
    """
    concepts = proposals.index.concepts
    known = (noun_of(concepts[int(row)].name, None)[0] for row in concepts.rows("base"))
    names = list(dict.fromkeys([*(name for name in known if name), *said.names]))
    texts = embed_names(names, templates, teacher)
    return _nearest(data, proposals, label, names, texts, teacher, {**said.recipe, "choose": "teacher"})


def _nearest(
    data: Path,
    proposals: Proposals,
    label: str,
    names: list[str],
    texts: NDArray[np.float32],
    teacher: Teacher,
    recipe: dict[str, Any],
) -> Chosen:
    """The best of some names for each proposal; names that are the best of none stay in the list."""
    crops = open_over(data, proposals, "proposals/crops", label)
    ids = nearest_words(crops, texts, teacher)
    reasons = dict.fromkeys(np.flatnonzero(ids < 0).tolist(), NO_CROP)
    return Chosen(ids, names, reasons, {**recipe, "crops": crops.manifest.digest})


def _templates(data: Path, label: str, given: str | Path | Sequence[str] | None) -> Templates:
    """The templates given, else those of the column `text`, so that nouns and concepts can be compared."""
    name = str(ColumnName("text", label))
    if given is None and name in list_columns(data):
        patterns = column_info(data, name).manifest.spec.recipe.get("templates")
        if patterns:
            return Templates(patterns["name"], tuple(patterns["patterns"]))
    return resolve_templates(TEMPLATES if given is None else given)


def _teacher_name(data: Path, proposals: Proposals, label: str) -> str:
    """The teacher of the columns that nouns are compared with."""
    for column in (ColumnName("proposals/crops", label, of=proposals.label), ColumnName("text", label)):
        if str(column) in list_columns(data):
            found = column_info(data, str(column)).manifest.spec.recipe.get("teacher")
            if found:
                require_own_teacher(str(found["name"]), f"column {column} of {data}")
                return str(found["name"])
    raise UserError(
        f"{data}: no column names a teacher, expected proposals/crops or text; give "
        "--teacher NAME, the teacher of the crops."
    )
