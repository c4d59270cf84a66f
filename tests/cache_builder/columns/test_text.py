"""The column `text`, made by a teacher or imported."""

from __future__ import annotations

import hashlib
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from safetensors.numpy import save_file
from torch.nn import functional as F

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.columns.text import cache_text, read_table
from cckt.cache_builder.index import build_index, open_index
from cckt.cache_builder.store import open_column
from cckt.cache_builder.teacher.prompts import embed_concepts, resolve_templates, spoken
from cckt.cache_builder.vocabulary import Concept, Vocabulary
from tests.cache_builder.samples import CONCEPTS, WIDTH, write_photos, write_teacher
from tests.places import SHARED


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_teacher(tmp_path_factory.mktemp("teacher"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "set", photos=1)


def vocabulary(count: int) -> Vocabulary:
    return Vocabulary([Concept(10 * k, f"thing_{k}") for k in range(count)])


def table(rows: int = len(CONCEPTS), width: int = 6) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(rows, width)).astype(np.float32) * 5


def refusal(path: Path, concepts: Vocabulary) -> str:
    with pytest.raises(UserError) as caught:
        read_table(path, concepts)
    return str(caught.value)


def test_no_teacher_at_all(data: Path) -> None:
    with pytest.raises(UserError, match="no teacher is named; give --teacher NAME, or --import FILE"):
        cache_text(data)


def test_rows_equal_open_clip_called_directly(data: Path, tiny: str) -> None:
    report = cache_text(data, tiny, device="cpu", chunk_rows=3)
    assert (report.rows, report.invalid, report.made_chunks, report.skipped_chunks) == (4, 0, 2, 0)
    index = open_index(data)
    column = open_column(data, "text", index_digest=index.digest)
    assert column.dtype == np.float32
    model, tokenizer = open_clip.create_model(tiny).eval(), open_clip.get_tokenizer(tiny)
    for concept, row in zip(index.concepts, column.all(), strict=True):
        with torch.no_grad():
            tokens = tokenizer(resolve_templates("ensemble12").fill(spoken(concept.name)))
            mean = F.normalize(model.encode_text(tokens), dim=-1).mean(0)
        np.testing.assert_allclose(row, F.normalize(mean, dim=-1).numpy(), atol=1e-5)
    again = cache_text(data, tiny, device="cpu", chunk_rows=3)
    assert (again.made_chunks, again.skipped_chunks) == (0, 2)
    assert again.manifest == report.manifest


def test_the_recipe_is_complete(data: Path, tiny: str) -> None:
    report = cache_text(data, tiny, templates=["one {}", "{} two"], device="cpu")
    assert report.manifest is not None
    recipe = report.manifest.spec.recipe
    assert recipe["templates"] == {
        "name": "own",
        "patterns": ["one {}", "{} two"],
        "digest": resolve_templates(["one {}", "{} two"]).digest,
    }
    assert recipe["teacher"]["name"] == tiny
    assert recipe["teacher"]["weight_digest"].startswith("sha256:")
    assert recipe["teacher"]["precision"] == "fp32"
    assert (recipe["normalisation"], recipe["synonyms"]) == ("unit", False)


def test_other_templates_are_another_column(data: Path, tiny: str) -> None:
    first = cache_text(data, tiny, templates="single", device="cpu")
    with pytest.raises(UserError, match="holds a column of another recipe"):
        cache_text(data, tiny, device="cpu")
    second = cache_text(data, tiny, device="cpu", overwrite=True)
    assert first.manifest is not None
    assert second.manifest is not None
    assert first.manifest.digest != second.manifest.digest


def test_synonyms_are_averaged_on_request(tiny: str) -> None:
    from cckt.cache_builder.teacher.clip import load_teacher

    teacher = load_teacher(tiny, device="cpu")
    concepts, templates = Vocabulary.free("tv|television, cat"), resolve_templates("single")
    plain = embed_concepts(concepts, templates, teacher.encode_texts)
    both = embed_concepts(concepts, templates, teacher.encode_texts, synonyms=True)
    mean = plain[0] + teacher.encode_texts(["a photo of a television."])[0]
    np.testing.assert_allclose(both[0], mean / np.linalg.norm(mean), atol=1e-6)
    np.testing.assert_array_equal(both[1], plain[1])


def test_concepts_with_one_wording_get_a_note(tmp_path: Path, tiny: str) -> None:
    folder = tmp_path / "set"
    write_photos(folder, photos=1)
    held = json.loads((folder / "coco.json").read_text())
    held["categories"][3]["name"] = "Bow (weapon)"
    (folder / "coco.json").write_text(json.dumps(held))
    build_index(folder / "coco.json", folder / "photos", folder / "data", "all-base")
    report = cache_text(folder / "data", tiny, templates="single", device="cpu")
    assert report.notes == ["concepts 'bow_(weapon)' and 'Bow (weapon)' get the same embedding"]


@pytest.mark.parametrize("kind", ["npy", "npy16", "pt", "pt-dict", "pt-bf16", "safetensors", "names", "ids"])
def test_import_of_every_kind(data: Path, tmp_path: Path, kind: str) -> None:
    rows = table()
    index = open_index(data)
    path = tmp_path / f"table.{'pt' if kind.startswith('pt') else 'npy' if 'npy' in kind else 'safetensors'}"
    backwards = list(zip(index.concepts, rows, strict=True))[::-1]
    match kind:
        case "npy" | "npy16":
            np.save(path, rows.astype(np.float16) if kind == "npy16" else rows)
        case "pt" | "pt-bf16":
            torch.save(torch.from_numpy(rows).to(torch.bfloat16 if "bf16" in kind else torch.float32), path)
        case "pt-dict":
            torch.save({"weight": torch.nn.Parameter(torch.from_numpy(rows))}, path)
        case "safetensors":
            save_file({"any": rows}, path)
        case "names":
            save_file({concept.name: row for concept, row in backwards}, path)
        case "ids":
            save_file({str(concept.category_id): row for concept, row in backwards}, path)
    report = cache_text(data, import_file=path)
    column = open_column(data, "text", index_digest=index.digest)
    expected = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    np.testing.assert_allclose(column.all(), expected, atol=5e-3 if "16" in kind else 1e-6)
    assert report.manifest is not None
    recipe = report.manifest.spec.recipe
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert recipe["import"] == {"file": path.name, "digest": f"sha256:{digest}"}
    assert recipe["teacher"] is None


def test_import_for_a_teacher(data: Path, tmp_path: Path, tiny: str) -> None:
    np.save(tmp_path / "fits.npy", table(width=WIDTH))
    np.save(tmp_path / "other.npy", table(width=7))
    report = cache_text(data, tiny, import_file=tmp_path / "fits.npy", device="cpu")
    assert report.manifest is not None
    assert report.manifest.spec.recipe["teacher"]["name"] == tiny
    with pytest.raises(UserError, match=r"rows of 7 values, but embeddings of teacher .* have 24"):
        cache_text(data, tiny, import_file=tmp_path / "other.npy", device="cpu")


def test_tables_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    def kept(name: str, held: Any) -> Path:
        path = tmp_path / name
        if name.endswith("npy"):
            np.save(path, held, allow_pickle=True)
        elif name.endswith("safetensors"):
            save_file(held, path)
        else:
            torch.save(held, path)
        return path

    five = vocabulary(5)
    bad, zero = table(5), table(5)
    bad[3, 1], zero[2] = np.nan, 0
    endless = table(5)
    endless[0, 0] = np.inf
    for path, words in (
        (kept("a.npy", table(4)), "holds 4 rows where the data set has 5 concepts; give"),
        (kept("b.npy", table(6, 5)), "holds 6 rows where the data set has 5 concepts; it may be transposed"),
        (kept("c.npy", table(5)[0]), "holds an array of shape (6,)"),
        (kept("d.npy", np.zeros((5, 0))), "holds an array of shape (5, 0)"),
        (kept("e.npy", bad), "row 3 (thing_3) holds NaN or infinity (so in 1 of 5 rows)"),
        (kept("f.npy", endless), "row 0 (thing_0) holds NaN or infinity"),
        (kept("g.npy", zero), "row 2 (thing_2) is all zeros (so in 1 of 5 rows)"),
        (kept("h.npy", table(5).astype(complex)), "values of type complex128"),
        (kept("i.npy", np.array([{}] * 5, object)), "cannot be read as .npy"),
        (kept("j.pt", {"a": torch.zeros(5, 2), "b": "words"}), "cannot be read as .pt (it holds a str"),
        (kept("k.pt", [torch.zeros(5, 2)]), "cannot be read as .pt (it holds a list"),
        (kept("l.safetensors", {"thing_0": table(1)[0]}), "no vector for 'thing_1' (category 10)"),
        (
            kept("m.safetensors", {"x": table(5), "y": table(5)}),
            "holds 2 tensors, but no vector for 'thing_0'",
        ),
        (
            kept("n.safetensors", {f"thing_{k}": np.ones(2 + k % 2, np.float32) for k in range(5)}),
            "vectors of different lengths",
        ),
    ):
        assert words in refusal(path, five), path


def test_files_that_are_not_tables_are_refused(tmp_path: Path) -> None:
    five = vocabulary(5)
    assert "is not a file" in refusal(tmp_path / "none.npy", five)
    for suffix in ("npy", "pt", "safetensors"):
        (tmp_path / f"x.{suffix}").write_bytes(b"not a table")
        assert f"cannot be read as .{suffix}" in refusal(tmp_path / f"x.{suffix}", five)
    (tmp_path / "x.csv").write_text("1,2")
    assert "is neither .npy, .pt nor .safetensors" in refusal(tmp_path / "x.csv", five)


class Trap:
    """What a hostile pickle would run."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, ("sprung", "w"))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_no_pickled_code_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "trap.pt").write_bytes(pickle.dumps(Trap()))
    np.save(tmp_path / "trap.npy", np.array([Trap()], object), allow_pickle=True)
    for name in ("trap.pt", "trap.npy"):
        assert "cannot be read" in refusal(tmp_path / name, vocabulary(1))
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("file", "count"),
    [("lvis_v1_clip_a+cname.npy", 1203), ("coco_clip_a+cname.npy", 80), ("o365_clip_a+cnamefix.npy", 365)],
)
def test_published_tables_are_imported(file: str, count: int) -> None:
    path = SHARED / "text_embeddings" / file
    if not path.is_file():
        pytest.skip("../shared/data is not here")
    rows = read_table(path, vocabulary(count))
    assert rows.shape == (count, 512)
    source = np.load(path).astype(np.float64)
    np.testing.assert_allclose(rows, source / np.linalg.norm(source, axis=1, keepdims=True), atol=1e-6)


def test_a_published_table_on_the_lvis_vocabulary(tmp_path: Path) -> None:
    names = SHARED / "vocabularies" / "detic_lvis_v1_train_cat_info.json"
    if not names.is_file():
        pytest.skip("../shared/data is not here")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    photo = {"id": 1, "file_name": "a.jpg", "width": 9, "height": 9, "neg_category_ids": []}
    held = {"images": [photo], "annotations": [], "categories": json.loads(names.read_text())}
    (tmp_path / "lvis.json").write_text(json.dumps(held))
    build_index(tmp_path / "lvis.json", tmp_path / "photos", tmp_path / "data", "lvis")
    report = cache_text(
        tmp_path / "data", import_file=SHARED / "text_embeddings" / "lvis_v1_clip_a+cname.npy"
    )
    assert (report.rows, report.invalid) == (1203, 0)
