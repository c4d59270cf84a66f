"""Nouns of proposals: from answers and from word lists, resumed, verified, opened; and every mistake."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.progress import Silent
from cckt.cache_builder.columns import recompute
from cckt.cache_builder.columns.nouns import answers as answers_module
from cckt.cache_builder.columns.nouns import cache as nouns_module
from cckt.cache_builder.columns.nouns.cache import cache_nouns
from cckt.cache_builder.columns.proposals import import_proposals
from cckt.cache_builder.columns.text import cache_text
from cckt.cache_builder.index import open_index
from cckt.cache_builder.mllm import Mllm
from cckt.cache_builder.mllm.namer import Namer
from cckt.cache_builder.photos import load_or_reason
from cckt.cache_builder.proposals import Selection, find_leak, leak, open_nouns, open_proposals
from cckt.cache_builder.proposals.noun_phrases import noun_of
from cckt.cache_builder.proposals.nouns import read_answers
from cckt.cache_builder.proposals.provenance import Provenance
from cckt.cache_builder.runner import ExactPart
from cckt.cache_builder.store import list_columns, open_column, pull
from cckt.cache_builder.teacher.clip import Teacher, load_teacher
from cckt.cache_builder.teacher.crop_rules import crop_rectangles
from cckt.cache_builder.teacher.prompts import SINGLE
from cckt.cache_builder.vocabulary import Vocabulary
from tests.cache_builder.column_samples import tree
from tests.cache_builder.columns.nouns.conftest import propose
from tests.cache_builder.samples import write_teacher

KINDS = ("proposals/answers", "proposals/noun_texts", "proposals/noun_weights", "proposals/nouns")


def expected_answers(data: Path, mllm: Mllm) -> dict[int, str]:
    """Proposal -> answer, one crop at a time."""
    index = open_index(data)
    table, namer, found = open_proposals(data, index), Namer(mllm, batch=1), {}
    for row in range(len(table)):
        photo = load_or_reason(index, int(table.box_images[row]))
        box = table.box_xyxy[row]
        if isinstance(photo, str) or (box[2:] - box[:2]).min() < 16:
            continue
        crop = photo.crop(tuple(crop_rectangles(box[None], photo.size)[0].tolist()))
        (found[row],) = namer.answers([namer.inputs(crop)])
    return found


def test_each_proposal_has_the_noun_of_its_own_answer(data: Path, mllm: Mllm, teacher: Teacher) -> None:
    reports = cache_nouns(data, mllm, teacher=teacher, workers=0, chunk_rows=8)
    assert {report.name for report in reports} == set(KINDS)
    assert "not fitted: The noun weight cannot be fitted" in reports[-1].notes[0], "an untrained teacher"
    assert set(KINDS) - {"proposals/noun_weights"} <= set(list_columns(data))
    expected = expected_answers(data, mllm)
    index = open_index(data)
    table = open_proposals(data, index)
    assert 8 < len(expected) < len(table)
    answers = open_column(data, "proposals/answers", index_digest=table.digest)
    texts, valid = read_answers(answers), answers.valid_all()
    nouns = open_nouns(data, index, table)
    for row in range(len(table)):
        assert bool(valid[row]) == (row in expected)
        if row in expected:
            cut = expected[row].replace("\0", " ").encode()[:96].decode("utf-8", "ignore")
            assert texts[row] == cut
            noun = noun_of(cut)[0]
            assert noun == (nouns.names[nouns.ids[row]] if nouns.ids[row] >= 0 else "")
        else:
            assert nouns.ids[row] == -1
    used = nouns.ids[nouns.ids >= 0]
    assert len(set(nouns.names)) == len(nouns.names) == len(set(used.tolist()))
    first = [int(np.flatnonzero(nouns.ids == k)[0]) for k in range(len(nouns.names))]
    assert first == sorted(first), "numbered in order of the first proposal"
    single = teacher.encode_texts([SINGLE[0].replace("{}", name) for name in nouns.names])
    np.testing.assert_allclose(nouns.embeddings, single, atol=2e-6)  # the templates of the column text
    reasons = open_column(data, "proposals/nouns").manifest.notes.values()
    assert any("003.png" in reason for reason in reasons)
    assert any("under 16 px" in reason for reason in reasons)


def test_weights_are_those_of_the_formula_and_the_constants_are_fitted(
    data: Path, mllm: Mllm, teacher: Teacher
) -> None:
    fitting_text(data, teacher)
    report = cache_nouns(data, mllm, teacher=teacher, workers=0)[-1]
    index = open_index(data)
    table = open_proposals(data, index)
    nouns = open_nouns(data, index, table)
    crops = open_column(data, "proposals/crops")
    assert nouns.weight is not None
    assert nouns.weight.summary() in report.notes
    assert nouns.weight.right > nouns.weight.wrong
    assert nouns.weight.objects == int(open_column(data, "crops").valid_all().sum())
    found, column = nouns.weights(crops.all()), open_column(data, "proposals/noun_weights")
    for row in range(len(table)):
        if nouns.ids[row] < 0 or not crops.valid_all()[row]:
            assert found[row] == 0
            assert not column.valid_all()[row]
            continue
        s = float(crops.all()[row].astype(np.float64) @ nouns.embeddings[nouns.ids[row]])
        z = (s - nouns.weight.s0) / nouns.weight.s_delta
        assert found[row] == pytest.approx(1.3 / (1 + np.exp(-z)), abs=2e-4)
        assert column.all()[row, 0] == pytest.approx(found[row], abs=1e-6)


def fitting_text(data: Path, teacher: Teacher) -> None:
    """Replace the column text of the untrained teacher by one that tells its crops apart."""
    index, crops = open_index(data), open_column(data, "crops")
    rows = np.flatnonzero(crops.valid_all())
    own = np.eye(len(index.concepts))[index.box_concepts[rows]]
    np.save(data.parent / "table.npy", (np.linalg.pinv(crops.take(rows).astype(np.float64)) @ own).T)
    cache_text(data, teacher, import_file=data.parent / "table.npy", overwrite=True)


class Killed(BaseException):
    """A kill, in place of the signal."""


def test_a_killed_run_resumes_and_gives_the_same_bytes(
    made: Path, tmp_path: Path, mllm: Mllm, teacher: Teacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "c"):
        shutil.copytree(made.parent, tmp_path / name)
    a, b, c = (tmp_path / name / "data" for name in ("a", "b", "c"))
    cache_nouns(a, mllm, teacher=teacher, workers=0, chunk_rows=4)
    calls = [0]
    original = answers_module.as_rows

    def dying(answers: Any) -> Any:
        calls[0] += 1
        if calls[0] == 3:
            raise Killed
        return original(answers)

    monkeypatch.setattr(answers_module, "as_rows", dying)
    with pytest.raises(Killed):
        cache_nouns(b, mllm, teacher=teacher, workers=0, chunk_rows=4)
    with pytest.raises(UserError, match="is not finished"):
        open_column(b, "proposals/answers")
    monkeypatch.setattr(answers_module, "as_rows", original)
    report = cache_nouns(b, mllm, teacher=teacher, workers=0, chunk_rows=4)[0]
    assert report.skipped_chunks == 2
    half = cache_nouns(c, mllm, teacher=teacher, workers=0, chunk_rows=4, part=ExactPart((0, 2)))
    assert [one.name for one in half] == ["proposals/answers"]
    assert half[0].manifest is None
    assert len(cache_nouns(c, mllm, teacher=teacher, workers=0, chunk_rows=4, part=ExactPart((1, 2)))) == 4
    assert tree(a / "proposals") == tree(b / "proposals") == tree(c / "proposals")


def test_columns_verify_and_can_be_pulled(data: Path, tmp_path: Path, mllm: Mllm, teacher: Teacher) -> None:
    fitting_text(data, teacher)
    cache_nouns(data, mllm, teacher=teacher, workers=0)
    reports = list(recompute.verify_data(data, KINDS))
    assert not [problem for report in reports for problem in report.problems]
    assert any(report.agreement is not None for report in reports), "texts were made again"
    chunk = data / "proposals" / "nouns" / "values" / "c.0.0"
    held = bytearray(chunk.read_bytes())
    held[0] ^= 1
    chunk.write_bytes(held)
    (bad,) = recompute.verify_data(data, ["proposals/nouns"])
    assert [problem.kind for problem in bad.problems] == ["digest"]
    names = ["proposals/noun_texts"]
    pull(data, tmp_path / "other", names)
    assert list_columns(tmp_path / "other") == names


def test_the_best_word_of_a_list(data: Path, teacher: Teacher) -> None:
    path = data.parent / "words.txt"
    path.write_text("\ufeffCats\n\n  the Traffic  lights \n123\nbow_(weapon)\ncat\n", encoding="utf-8")
    reports = cache_nouns(data, nouns_from=path)
    assert "proposals/answers" not in [report.name for report in reports]
    index = open_index(data)
    table = open_proposals(data, index)
    nouns = open_nouns(data, index, table)
    assert nouns.names == ("cat", "traffic light", "bow weapon")
    crops = open_column(data, "proposals/crops")
    for row in range(len(table)):
        if not crops.valid_all()[row]:
            assert nouns.ids[row] == -1
            continue
        cosines = [float(crops.all()[row].astype(np.float32) @ text) for text in nouns.embeddings]
        assert nouns.ids[row] == int(np.argmax(cosines))
    assert nouns.base_rows(index.concepts.names).tolist() == [0, 2, 1]
    assert nouns.base_rows(["Traffic_light", "dog"]).tolist() == [-1, 0, -1]
    assert nouns.base_rows(["a bow weapon of wood", "dog"]).tolist() == [-1, -1, 0], "a longer name"
    assert nouns.base_rows(["cat in boots", "cat on a roof"]).tolist() == [-1, -1, -1], "either of two"
    assert nouns.provenance.maker == "words"
    assert {"cat", "bow weapon", "bow_(weapon)"} <= set(nouns.provenance.words)


def test_the_leak_guard_sees_novel_words(data: Path) -> None:
    words = Provenance("words", "w.txt", "sha256:0", words=("cat", "bow_(weapon)"))
    mllm_maker = Provenance("mllm", "llava", "sha256:0")
    index = open_index(data)
    novel = Vocabulary(
        [replace(one, split="novel" if one.name == "bow_(weapon)" else "base") for one in index.concepts]
    )
    other = replace(index, concepts=novel)
    assert "given the names of 1 novel concepts" in find_leak(words, other)
    assert find_leak(mllm_maker, other) == ""
    assert find_leak(words, index) == ""


def test_without_crops_of_boxes_the_weight_is_not_fitted_and_a_note_says_how(
    data: Path, mllm: Mllm, teacher: Teacher
) -> None:
    shutil.rmtree(data / "crops")
    report = cache_nouns(data, mllm, teacher=teacher, workers=0)[-1]
    assert "cckt cache crops" in report.notes[0]
    assert "cckt cache fit-nouns" in report.notes[0]
    index = open_index(data)
    nouns = open_nouns(data, index, open_proposals(data, index))
    assert nouns.weight is None
    with pytest.raises(UserError, match=r"not fitted to the teacher yet; run `cckt cache fit-nouns"):
        nouns.weights(open_column(data, "proposals/crops").all())


def test_mistakes(
    data: Path, tmp_path: Path, mllm: Mllm, teacher: Teacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(match: str, **options: Any) -> None:
        with pytest.raises(UserError, match=match) as caught:
            cache_nouns(data, mllm, **{"teacher": teacher, "workers": 0, **options})
        assert "\n" not in str(caught.value)

    (tmp_path / "none.txt").write_text("123\n...\n")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00cat")
    fails("none of its 2 lines is a usable word", nouns_from=tmp_path / "none.txt")
    fails("cannot be read as text", nouns_from=tmp_path / "bytes.txt")
    fails("cannot be read as text", nouns_from=tmp_path / "missing.txt")
    fails("nouns are of proposals", of="boxes")
    fails("no column proposals-owl/boxes", of="proposals-owl")
    fails("--prompt is empty", prompt=" ")
    fails("--crop circle is not known", crop="circle")
    fails("--crop oadp hides patches", crop="oadp")
    fails("--block is 0", block=0)
    (tmp_path / "words.txt").write_text("cat\ndog\n")
    second = load_teacher(write_teacher(tmp_path / "second", seed=1), device="cpu")
    fails("expected the same weights", nouns_from=tmp_path / "words.txt", teacher=second)
    monkeypatch.setattr(Namer, "answers", lambda self, crops: ["..."] * len(crops))
    fails(r"names nothing: none of \d+ answers has a noun")
    assert not (data / "proposals" / "answers" / "values" / "c.0.0").exists()
    monkeypatch.undo()
    cache_nouns(data, mllm, teacher=teacher, workers=0)
    fails("holds a column of another recipe", prompt="What is it?")
    fails(
        r"another recipe: .*provenance.maker 'mllm' instead of 'words'.*; keep it, or replace it with",
        nouns_from=tmp_path / "words.txt",
    )
    cache_nouns(data, nouns_from=tmp_path / "words.txt", overwrite=True)
    shutil.rmtree(data / "proposals" / "answers")
    fails(r"proposals/nouns holds .*provenance.maker 'words' instead of 'mllm'")
    assert not (data / "proposals" / "answers").exists(), "before the model is asked"
    propose(data, scale=0.9)
    index = open_index(data)
    with pytest.raises(UserError, match="made for another proposals table"):
        open_nouns(data, index, open_proposals(data, index))


def test_proposals_that_are_all_too_small(data: Path, mllm: Mllm, teacher: Teacher) -> None:
    path = data.parent / "small.json"
    path.write_text('[{"image_id": 0, "bbox": [1, 1, 12, 12], "score": 1}]')
    import_proposals(data, path, selection=Selection(min_side=4), overwrite=True)
    with pytest.raises(UserError, match="all 1 proposals are under 16 px on a side"):
        cache_nouns(data, mllm, teacher=teacher, workers=0)


def test_texts_need_a_teacher(made: Path, tmp_path: Path, mllm: Mllm) -> None:
    shutil.copytree(made.parent, tmp_path / "set")
    data = tmp_path / "set" / "data"
    for name in ("text", "proposals/crops"):
        shutil.rmtree(data / name)
    with pytest.raises(UserError, match="no column names a teacher, expected proposals/crops or text"):
        cache_nouns(data, mllm, workers=0)


def test_a_leak_is_told_before_the_model_answers(
    data: Path, mllm: Mllm, teacher: Teacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Notes(Silent):
        told: ClassVar[list[str]] = []

        def note(self, message: str) -> None:
            self.told.append(message)

    def answer(*_: Any, **__: Any) -> None:
        raise Killed

    monkeypatch.setattr(leak, "is_guarded", lambda index: True)
    monkeypatch.setattr(leak, "find_leak", lambda provenance, index: f"was asked {provenance.prompt}")
    monkeypatch.setattr(nouns_module, "cache_answers", answer)
    with pytest.raises(Killed):
        cache_nouns(data, mllm, teacher=teacher, prompt="Is it a cup?", workers=0, progress=Notes())
    (told,) = Notes.told
    assert "was asked Is it a cup?" in told
    assert told.startswith("warning: ")
    assert told.endswith("training under an open-vocabulary protocol refuses it")
