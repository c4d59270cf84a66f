"""The column priors/mllm: its rows, resuming, parts, prefilter, calibration, folders, and every mistake."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.columns import mllm_priors as column_module
from cckt.cache_builder.columns.mllm_priors import cache_mllm_priors, check_share
from cckt.cache_builder.index import build_index, open_index
from cckt.cache_builder.mllm import Mllm, Questions, Scorer, default_model, load_mllm
from cckt.cache_builder.mllm.prefilter import highest
from cckt.cache_builder.photos import load_photo
from cckt.cache_builder.runner import ExactPart
from cckt.cache_builder.store import ColumnSpec, open_column, open_writer
from tests.cache_builder.mllm.mllm_models import build, outspoken
from tests.cache_builder.samples import index_photos, write_photos


@pytest.fixture(scope="module")
def mllm() -> Mllm:
    """It says yes or no."""
    return Mllm.of("outspoken", *outspoken(), device="cpu")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five photos of four concepts; the fourth photo is broken."""
    folder = tmp_path_factory.mktemp("mllm") / "set"
    write_photos(folder, photos=5)
    (folder / "photos" / "003.png").write_bytes(b"no photo")
    return folder


@pytest.fixture
def data(photos: Path, tmp_path: Path) -> Path:
    """The same, to make columns in."""
    shutil.copytree(photos, tmp_path / "set")
    return index_photos(tmp_path / "set")


def expected_rows(data: Path, mllm: Mllm) -> dict[int, np.ndarray]:
    """Row -> probabilities, straight from the scorer."""
    index = open_index(data)
    questions, scorer = Questions(mllm, index.concepts.names), Scorer(mllm, block=1)
    return {
        row: scorer.score(questions.for_image(load_photo(index.photo_path(row)))).probability
        for row in range(5)
        if row != 3
    }


def test_the_column(data: Path, mllm: Mllm) -> None:
    report = cache_mllm_priors(data, mllm, chunk_rows=2)
    column = open_column(data, "priors/mllm", index_digest=open_index(data).digest)
    assert (column.rows, column.width, column.dtype) == (5, 4, np.float32)
    np.testing.assert_array_equal(column.valid_all(), [True, True, True, False, True])
    for row, values in expected_rows(data, mllm).items():
        np.testing.assert_allclose(column.all()[row], values, atol=1e-4)
    assert np.ptp(column.all()[[0, 1, 2, 4]]) > 0.02
    assert not column.all()[3].any()
    assert report.invalid == 1
    assert "003.png is not an image in a supported format" in report.notes
    assert "outspoken runs with a shared prefix and suffixes packed in one row" in report.notes
    assert any(line.startswith("yes and no held 0.") for line in report.notes)
    recipe = column.manifest.spec.recipe
    assert recipe["model"]["weight_digest"] == mllm.weight_digest
    assert recipe["model"]["architecture"] == "LlavaForConditionalGeneration"
    assert recipe["prompt"] == "Question: Does {concept} exist in the image? Answer:"
    assert recipe["chat_template"] is False
    assert {entry["text"] for entry in recipe["answers"]["yes"]} >= {"yes", " Yes"}
    assert recipe["measured"]["share"] > 0.9
    assert recipe["prefilter"] is recipe["calibrated_on"] is None


def test_resuming_and_parts(data: Path, mllm: Mllm) -> None:
    first_half = cache_mllm_priors(data, mllm, chunk_rows=1, part=ExactPart((0, 2)))
    assert (first_half.made_chunks, first_half.manifest) == (3, None)
    with pytest.raises(UserError, match="not finished"):
        open_column(data, "priors/mllm")
    second = cache_mllm_priors(data, mllm, chunk_rows=1, part=ExactPart((1, 2)))
    assert (second.made_chunks, second.skipped_chunks) == (2, 0)
    assert second.manifest is not None
    assert cache_mllm_priors(data, mllm, chunk_rows=1).skipped_chunks == 5
    with pytest.raises(UserError, match="holds a column of another recipe"):
        cache_mllm_priors(data, mllm, chunk_rows=1, prompt="Is there a {concept}?")
    assert cache_mllm_priors(data, mllm, prompt="Is a {concept} there?", overwrite=True).made_chunks == 1


def write_clip(data: Path, priors: np.ndarray) -> None:
    """A column priors/clip with given values; the last photo has none."""
    spec = ColumnSpec(
        name="priors/clip",
        table="images x concepts",
        rows=5,
        width=4,
        dtype="float32",
        unit=False,
        has_valid=True,
        index_digest=open_index(data).digest,
    )
    writer = open_writer(data, spec)
    writer.write(0, priors, np.array([True] * 4 + [False]))
    writer.finish()


def test_a_column_in_another_place_is_measured_once_too(
    data: Path, mllm: Mllm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "elsewhere"
    cache_mllm_priors(data, mllm, chunk_rows=2, part=ExactPart((0, 2)), out=out)
    monkeypatch.setattr(column_module, "probe", lambda *_: pytest.fail("was measured before"))
    cache_mllm_priors(data, mllm, chunk_rows=2, part=ExactPart((1, 2)), out=out)
    column = open_column(out, "priors/mllm", index_digest=open_index(data).digest)
    for row, values in expected_rows(data, mllm).items():
        np.testing.assert_allclose(column.all()[row], values, atol=1e-4)
    assert not (data / "priors").exists()


def test_prefilter(data: Path, mllm: Mllm) -> None:
    priors = np.random.default_rng(0).permutation(20).reshape(5, 4) / 20
    write_clip(data, priors.astype(np.float32))
    report = cache_mllm_priors(data, mllm, prefilter="clip:2")
    column, whole = open_column(data, "priors/mllm").all(), expected_rows(data, mllm)
    for row in (0, 1, 2):
        best = np.argsort(-priors[row])[:2]
        np.testing.assert_allclose(column[row, best], whole[row][best], atol=1e-4)
        assert np.count_nonzero(column[row]) == 2
    np.testing.assert_allclose(column[4], whole[4], atol=1e-4)  # without a clip prior: everything
    index = open_index(data)
    pairs = {
        (int(i), int(c)) for i, c in zip(index.box_images, index.box_concepts, strict=True) if int(i) != 4
    }
    kept = sum(c in np.argsort(-priors[i])[:2] for i, c in pairs)
    line = f"prefilter clip:2 keeps {kept / len(pairs):.4f} of {len(pairs)} annotated pairs"
    assert any(
        note.startswith(line) and note.endswith("with 2 of 4 questions per photo") for note in report.notes
    )
    recipe = open_column(data, "priors/mllm").manifest.spec.recipe["prefilter"]
    assert recipe["keep"] == 2
    assert recipe["column"] == open_column(data, "priors/clip").manifest.digest


def test_of_equal_priors_the_lower_row_is_first() -> None:
    np.testing.assert_array_equal(highest(np.array([[0.5, 0.9, 0.5]]), 2), [[1, 0]])
    assert highest(np.zeros((2, 3)), 9).shape == (2, 3)


@pytest.mark.parametrize("text", ["clip", "clip:0", "clip:x", "oracle:5", ""])
def test_an_unknown_prefilter_is_refused(data: Path, mllm: Mllm, text: str) -> None:
    if not text:
        with pytest.raises(UserError, match="There is no column priors/clip"):
            cache_mllm_priors(data, mllm, prefilter="clip:2")
    else:
        with pytest.raises(UserError, match=f"--prefilter {text} is not known; give clip:K"):
            cache_mllm_priors(data, mllm, prefilter=text)


def training_set(folder: Path, mllm: Mllm, novel_boxes: bool) -> Path:
    """A data set with a novel concept, whose boxes are there or not; the model is mostly right about it."""
    write_photos(folder, photos=5)
    coco = json.loads((folder / "coco.json").read_text())
    index = open_index(folder / "data")
    questions, scorer = Questions(mllm, index.concepts.names), Scorer(mllm)
    priors = np.stack(
        [scorer.score(questions.for_image(load_photo(index.photo_path(k)))).logit for k in range(5)]
    )
    there = priors > np.median(priors)
    there[0] = ~there[0]  # it errs about the first photo
    coco["annotations"] = [
        {**coco["annotations"][0], "id": 1 + 4 * photo + c, "image_id": photo, "category_id": 1 + c}
        for photo, c in np.argwhere(there).tolist()
        if novel_boxes or c != 2
    ]
    (folder / "coco.json").write_text(json.dumps(coco))
    split = {"base": ["cat", "bow_(weapon)", "spray_can"], "novel": ["traffic light"]}
    (folder / "split.json").write_text(json.dumps(split))
    build_index(folder / "coco.json", folder / "photos", folder / "data", folder / "split.json")
    return folder / "data"


def test_calibration(data: Path, mllm: Mllm, tmp_path: Path) -> None:
    train, blind = training_set(tmp_path / "a", mllm, True), training_set(tmp_path / "b", mllm, False)
    plain = cache_mllm_priors(data, mllm)
    assert plain.manifest is not None
    raw = open_column(data, "priors/mllm").all().astype(np.float64)
    report = cache_mllm_priors(data, mllm, calibrate=train, overwrite=True)
    recipe = open_column(data, "priors/mllm").manifest.spec.recipe
    fitted = recipe["measured"]["calibration"]
    assert recipe["calibrated_on"] == open_index(train).digest
    assert (fitted["pairs"], fitted["photos"]) == (15, 5)
    assert any(
        note.startswith("calibrated on 15 answers about base concepts in 5 photos") for note in report.notes
    )
    rows = [0, 1, 2, 4]
    z = np.log(raw[rows] / (1 - raw[rows]))
    expected = 1 / (1 + np.exp(-(z / fitted["temperature"] + fitted["bias"])))
    np.testing.assert_allclose(open_column(data, "priors/mllm").all()[rows], expected, atol=1e-4)
    again = cache_mllm_priors(data, mllm, calibrate=train)  # what was measured is not measured again
    assert again.skipped_chunks == 1
    assert not any(note.startswith("calibrated") for note in again.notes)
    cache_mllm_priors(data, mllm, calibrate=blind, overwrite=True)
    unseen = open_column(data, "priors/mllm").manifest.spec.recipe
    assert unseen["measured"]["calibration"] == fitted, "novel boxes took part"


def test_a_folder_in_transformers_format(data: Path, tmp_path: Path) -> None:
    model, processor = outspoken()
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    assert cache_mllm_priors(data, str(tmp_path / "model"), device="cpu").made_chunks == 1
    loaded = load_mllm(str(tmp_path / "model"), device="cpu", dtype="bf16")
    assert (loaded.dtype, str(loaded.model.dtype)) == ("bf16", "torch.bfloat16")
    index = open_index(data)
    questions, scorer = Questions(loaded, index.concepts.names), Scorer(loaded)
    half = scorer.score(questions.for_image(load_photo(index.photo_path(0))))
    np.testing.assert_allclose(half.probability, open_column(data, "priors/mllm").all()[0], atol=0.1)


def test_a_missing_model_is_refused(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cckt.cache_builder.mllm.load.hub.HF_HUB_OFFLINE", True)
    with pytest.raises(
        UserError, match=r"no-such/model could not be loaded \(it is not in the cache and there"
    ):
        cache_mllm_priors(data, "no-such/model")
    with pytest.raises(UserError, match="AutoConfig found no usable model in that folder"):
        cache_mllm_priors(data, str(tmp_path))
    words = transformers.LlamaConfig(vocab_size=8, hidden_size=8, num_attention_heads=1)
    words.save_pretrained(tmp_path / "words")
    with pytest.raises(UserError, match="is a llama, which takes no images; expected a model that Auto"):
        cache_mllm_priors(data, str(tmp_path / "words"))
    transformers.LlavaConfig().save_pretrained(tmp_path / "bare")
    with pytest.raises(UserError, match="AutoProcessor found no usable model in that folder"):
        cache_mllm_priors(data, str(tmp_path / "bare"))
    code = {"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}}
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "config.json").write_text(json.dumps(code))
    (tmp_path / "code" / "own.py").write_text("raise SystemExit('this code ran')")
    with pytest.raises(UserError, match="comes with its own code, which was not run"):
        cache_mllm_priors(data, str(tmp_path / "code"))
    with pytest.raises(UserError, match="--device: found 'tpu'"):
        cache_mllm_priors(data, str(tmp_path), device="tpu")


def test_mistakes_about_the_model() -> None:
    model, processor = build("llava").model, build("llava").processor
    with pytest.raises(UserError, match="--precision int8 is not known; choose one of fp32, bf16, fp16"):
        Mllm.of("m", model, processor, device="cpu", dtype="int8")
    with pytest.raises(UserError, match=r"its processor is a PreTrainedTokenizerFast|TokenizersBackend"):
        Mllm.of("m", model, processor.tokenizer, device="cpu")


def test_mistakes_about_the_question(data: Path, mllm: Mllm) -> None:
    for options, words in (
        ({"prompt": "Is it there?"}, "has no {concept}"),
        ({"block": 0}, "--block is 0"),
        ({"part": (2, 2)}, "--part is 2/2"),
        ({"strict": True}, "003.png"),
    ):
        changed: dict[str, Any] = dict(options)
        with pytest.raises(UserError, match=words):
            cache_mllm_priors(data, mllm, **changed)


def test_a_model_that_answers_neither(data: Path) -> None:
    with pytest.raises(UserError, match=r"llava answers neither yes nor no: they have 0.0"):
        cache_mllm_priors(data, build("llava"))
    assert check_share(0.5, build("llava")) is None
    warning = check_share(0.3, build("llava"))
    assert warning is not None
    assert warning.startswith("warning: yes and no hold only 0.30 of the probability")


def test_the_model_that_is_meant(data: Path) -> None:
    assert default_model(data) == "HuggingFaceTB/SmolVLM-500M-Instruct"
    (data / "world.json").write_text("{}")
    assert default_model(data) == "shapeworld"
