"""`--choose teacher` and `--ask`: the nearest noun of all that a model answered."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.columns.crops import cache_crops
from cckt.cache_builder.columns.nouns.answers import NOT_ASKED
from cckt.cache_builder.columns.nouns.cache import cache_nouns
from cckt.cache_builder.index import open_index
from cckt.cache_builder.mllm import Mllm
from cckt.cache_builder.proposals import Nouns, open_nouns, open_proposals
from cckt.cache_builder.proposals.noun_phrases import noun_of
from cckt.cache_builder.proposals.nouns import read_answers
from cckt.cache_builder.store import column_info, open_column, repair_command
from cckt.cache_builder.teacher.clip import Teacher
from cckt.cache_builder.teacher.prompts import SINGLE
from tests.cache_builder.column_samples import tree
from tests.cache_builder.columns.nouns.conftest import propose


def nouns_of(data: Path) -> Nouns:
    index = open_index(data)
    return open_nouns(data, index, open_proposals(data, index))


def test_the_teacher_chooses_among_all_answers_and_the_annotated_concepts(
    data: Path, mllm: Mllm, teacher: Teacher
) -> None:
    cache_nouns(data, mllm, teacher=teacher, choose="teacher", workers=0)
    answers, nouns = open_column(data, "proposals/answers"), nouns_of(data)
    said = {noun_of(text)[0] for text in np.array(read_answers(answers))[answers.valid_all()].tolist()} - {""}
    known = [noun_of(name, None)[0] for name in open_index(data).concepts.names]
    assert said
    assert set(nouns.names) == said | set(known)
    assert list(nouns.names[: len(known)]) == known, "annotated concepts first"
    crops = open_column(data, "proposals/crops")
    texts = teacher.encode_texts([SINGLE[0].replace("{}", name) for name in nouns.names])
    for row, crop in enumerate(crops.all().astype(np.float32)):
        assert nouns.ids[row] == (int(np.argmax(texts @ crop)) if crops.valid_all()[row] else -1)
    assert nouns.provenance.maker == "mllm"
    recipe = column_info(data, "proposals/nouns").manifest.spec.recipe
    assert "--choose teacher" in repair_command("D", "proposals/nouns", recipe)


def test_names_of_novel_concepts_come_from_answers_only(
    data: Path, mllm: Mllm, teacher: Teacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cckt.cache_builder.columns.nouns import cache as module

    index = open_index(data)
    novel = index.concepts.names[0]
    original = type(index.concepts).rows
    monkeypatch.setattr(
        type(index.concepts),
        "rows",
        lambda self, split: original(self, split)[1:] if split == "base" else original(self, split),
    )
    monkeypatch.setattr(module, "leak_notes", lambda *_: [])
    cache_nouns(data, mllm, teacher=teacher, choose="teacher", workers=0)
    assert noun_of(novel, None)[0] not in nouns_of(data).names


def test_the_model_is_asked_as_often_as_told_and_every_crop_has_a_noun(
    data: Path, mllm: Mllm, teacher: Teacher
) -> None:
    propose(data, scale=0.6)  # proposals that repeat no annotation
    cache_crops(data, teacher, workers=0, of="proposals", overwrite=True)
    cache_nouns(data, mllm, teacher=teacher, choose="teacher", workers=0, chunk_rows=4)
    every = open_column(data, "proposals/answers")
    full, possible = read_answers(every), int(every.valid_all().sum())
    shutil.rmtree(data / "proposals" / "answers")
    cache_nouns(data, mllm, teacher=teacher, choose="teacher", ask=3, workers=0, chunk_rows=4, overwrite=True)
    answers, nouns = open_column(data, "proposals/answers"), nouns_of(data)
    asked = answers.valid_all()
    assert asked.sum() <= 3  # a photo that cannot be read has no answer
    assert 0 < asked.sum() < possible
    assert [text for text, one in zip(read_answers(answers), asked, strict=True) if one] == [
        text for text, one in zip(full, asked, strict=True) if one
    ], "the answers of those that are asked are the same"
    assert NOT_ASKED in answers.manifest.notes.values()
    crops = open_column(data, "proposals/crops")
    assert ((nouns.ids >= 0) == crops.valid_all()).all()
    recipe = answers.manifest.spec.recipe
    assert recipe["ask"] == 3
    assert "--ask 3 --choose teacher" in repair_command("D", "proposals/answers", recipe)


def test_it_gives_the_same_bytes_again(made: Path, tmp_path: Path, mllm: Mllm, teacher: Teacher) -> None:
    folders = []
    for name, block in (("a", 1), ("b", 3)):
        shutil.copytree(made.parent, tmp_path / name)
        folders.append(tmp_path / name / "data")
        cache_nouns(
            folders[-1], mllm, teacher=teacher, choose="teacher", ask=4, workers=0, block=block, chunk_rows=4
        )
    assert tree(folders[0] / "proposals") == tree(folders[1] / "proposals")


def test_mistakes(data: Path, mllm: Mllm, teacher: Teacher) -> None:
    def fails(match: str, **options: Any) -> None:
        with pytest.raises(UserError, match=match) as caught:
            cache_nouns(data, mllm, **{"teacher": teacher, "workers": 0, **options})
        assert "\n" not in str(caught.value)

    fails("--choose clip is not known; expected one of answers, teacher", choose="clip")
    fails("--ask 5 leaves proposals without an answer, which only --choose teacher can name", ask=5)
    fails("--ask is 0", choose="teacher", ask=0)
    shutil.rmtree(data / "proposals" / "crops")
    fails("proposals/crops", choose="teacher")
    assert not (data / "proposals" / "answers").exists(), "before the model is asked"
