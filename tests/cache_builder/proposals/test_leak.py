"""The leak guard: which makers are refused, where, and what the doctor proves."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from cckt.cache_builder.base.constants import NAME_PROMPT
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.columns.proposals import proposals_spec
from cckt.cache_builder.doctor.data import check_proposals
from cckt.cache_builder.index import Index, build_index, open_index
from cckt.cache_builder.proposals import Provenance, find_leak, is_guarded, require_no_leak
from cckt.cache_builder.proposals.provenance import named_in, overlap, split_words
from cckt.cache_builder.proposals.select import Selection
from cckt.cache_builder.store import ColumnName, column_spec, open_writer
from tests.detector.tiny import render

MAKER = Provenance("detector", "owl", "sha256:w", saw_novel="no")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return render(tmp_path_factory.mktemp("leak"), 4)


def index_of(folder: Path, keep: str = "base", split: str = "split.json") -> Index:
    chosen = folder / split if split.endswith("json") else split
    build_index(folder / "annotations.json", folder / "photos", folder, split=chosen, keep=keep)
    return open_index(folder)


def store(index: Index, maker: Provenance) -> None:
    """An unfinished column is enough: the guard reads its recipe."""
    spec = proposals_spec(index, maker, Selection(), {}, 512)
    open_writer(index.folder, spec, overwrite=True)
    crops = ColumnName("proposals/crops", "b", "flipped")
    spec = column_spec(crops, rows=3, width=4, chunk_rows=4, index_digest="sha256:t", recipe={})
    open_writer(index.folder, spec, overwrite=True)


LEAKS = [
    ({"saw_novel": "yes"}, r"saw novel classes in its training \(--saw-novel yes\)"),
    ({"saw_novel": "unknown"}, r"may have seen novel classes in its training \(--saw-novel unknown\)"),
    ({"maker": "import", "saw_novel": "unknown"}, "may have seen novel classes"),
    ({"words": ("object", "Thing_5")}, r"was given the names of 1 novel concepts \(thing 5\)"),
    (
        {"concepts": ("thing 1", "thing 6", "thing 5")},
        r"trained on boxes of 2 novel concepts \(thing 5, thing 6\)",
    ),
    ({"maker": "run", "concepts": ("thing 6",)}, "trained on boxes of 1 novel concepts"),
    ({"words": ("a Thing-5", "object")}, r"was given the names of 1 novel concepts \(thing 5\)"),
]


@pytest.mark.parametrize(("changes", "message"), LEAKS)
def test_a_maker_that_saw_novel_classes_is_refused_with_the_reason(folder, changes, message) -> None:
    index = index_of(folder)
    store(index, replace(MAKER, **changes))
    with pytest.raises(
        UserError, match=rf"column proposals/boxes was made by .* owl, which .*{message}.*--from RUN"
    ):
        require_no_leak(folder, index, "proposals/boxes")
    with pytest.raises(UserError, match=message):
        require_no_leak(folder, index, "proposals/crops-b-flipped")
    require_no_leak(folder, index, "crops")
    (found,) = check_proposals(folder)
    assert found.level == "bad"
    assert "training under an open-vocabulary protocol refuses it" in found.message


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"words": ("object",)},
        {"maker": "run", "saw_novel": "unknown", "concepts": ("thing 1", "thing 2")},
    ],
)
def test_a_maker_that_saw_none_passes_and_the_doctor_says_why(folder, changes) -> None:
    index = index_of(folder)
    maker = replace(MAKER, **changes)
    store(index, maker)
    require_no_leak(folder, index, "proposals/boxes", "coco-48-17-r50")
    (found,) = check_proposals(folder)
    assert found.level == "good"
    proof = (
        "trained on boxes of 2 concepts, none of the 2" if maker.maker == "run" else "states that it saw none"
    )
    assert proof in found.message
    assert ("given the words object" in found.message) == bool(maker.words)


def test_outside_of_the_protocols_every_maker_is_welcome(folder) -> None:
    index = index_of(folder, keep="all")
    maker = replace(MAKER, saw_novel="yes", words=("thing 5",))
    store(index, maker)
    assert not is_guarded(index)
    require_no_leak(folder, index, "proposals/boxes", "shapeworld")
    (found,) = check_proposals(folder)
    assert (found.level, "welcome" in found.message) == ("good", True)
    for recipe in ("coco-48-17-r50", "hdovd-lvis-r50", "lvis-r50", "hybrid-coco-r50"):
        assert is_guarded(index, recipe)
    with pytest.raises(UserError, match="open-vocabulary protocol"):
        require_no_leak(folder, index, "proposals/boxes", "hdovd-coco-adamixer-r50")
    assert not is_guarded(index_of(folder, split="all-base")), "there is no novel concept to leak"


def test_the_advice_for_nouns_names_the_command_of_nouns(tmp_path: Path) -> None:
    folder = render(tmp_path, 4)
    index = index_of(folder)
    recipe = {"provenance": Provenance("words", "list.txt", "sha256:w", words=("thing 5",)).to_json()}
    for name in (ColumnName("proposals/nouns"), ColumnName("proposals/nouns", "b", of="two")):
        boxes = ColumnName("proposals/boxes", of=name.of)
        spec = proposals_spec(index, MAKER, Selection(), {}, 512)
        open_writer(folder, replace(spec, name=str(boxes)), overwrite=True)
        open_writer(
            folder,
            column_spec(name, rows=3, width=1, chunk_rows=4, index_digest="sha256:t", recipe=recipe),
            overwrite=True,
        )
        options = " --of proposals-two --name b" if name.of else ""
        with pytest.raises(
            UserError, match=f"cckt cache nouns {folder}{options} --overwrite --nouns-from FILE, with"
        ):
            require_no_leak(folder, index, str(name))


def test_a_column_without_a_maker_and_a_missing_table_are_refused(folder, tmp_path) -> None:
    index = index_of(folder)
    with pytest.raises(UserError, match="names no maker"):
        Provenance.from_recipe({"provenance": {"maker": "run", "else": 1}})
    with pytest.raises(UserError, match="no column proposals-b/boxes"):
        require_no_leak(folder, index, "proposals-b/crops")
    assert Provenance.from_recipe({"provenance": MAKER.to_json()}) == MAKER
    assert find_leak(MAKER, index) == ""


def test_words_are_split_and_names_compared_in_normal_form() -> None:
    assert split_words("a  cat. dog ,bird.") == ("a cat", "dog", "bird")
    assert split_words(" . ,") == ()
    assert overlap(("Fire_Hydrant",), [("hydrant", "fire hydrant"), ("cup",)]) == ["hydrant"]


def test_names_are_compared_as_nouns() -> None:
    novel = [("umbrella",), ("traffic light", "stoplight"), ("crossed swords",), ("knives",)]
    for word, name in (
        ("umbrellas", "umbrella"),
        ("an Umbrella", "umbrella"),
        ("traffic-lights", "traffic light"),
        ("stop light", "traffic light"),
        ("crossed sword", "crossed swords"),
        ("a knife", "knives"),
    ):
        assert overlap([word], novel) == [name], word
    assert overlap(["umbrella stand", "light", "sword", "object", "", "12"], novel) == []


def test_a_name_of_a_base_concept_is_no_leak(tmp_path: Path) -> None:
    """A data set may hold "people" and "person", one of them novel."""
    index = index_with(tmp_path, {"people": "base", "person": "novel", "hot dog": "base", "dog": "novel"})
    assert find_leak(replace(MAKER, words=("people",)), index) == ""
    assert find_leak(replace(MAKER, maker="run", concepts=("people", "hot dog")), index) == ""
    assert "1 novel concepts (person)" in find_leak(replace(MAKER, words=("persons",)), index)


@pytest.mark.parametrize(
    ("word", "named"),
    [
        ("a photo of a cat", "cat"),
        ("a photo of a red umbrella", "umbrella"),
        ("a cat and an umbrella", "cat, umbrella"),
        ("cat, domestic cat", "cat"),
        ("Dog/Cat", "cat"),
        ("sofa; umbrellas", "umbrella"),
        ("large black cat", "cat"),
        ("umbrella stand", ""),
        ("cat 5", ""),
        ("hot dog", ""),
        ("a photo of a hot dog", ""),
    ],
)
def test_a_word_may_name_more_than_itself(tmp_path: Path, word: str, named: str) -> None:
    splits = {"hot dog": "base", "dog": "base", "cat": "novel", "umbrella": "novel"}
    index = index_with(tmp_path, splits)
    for maker in (
        {"words": (word,)},
        {"maker": "run", "concepts": (word,)},
        {"maker": "words", "words": (word,)},
    ):
        leak = find_leak(replace(MAKER, **maker), index)
        assert (f"({named})" in leak) if named else not leak, leak


def index_with(folder: Path, splits: dict[str, str]) -> Index:
    """The index of one photo, and of concepts with these names."""
    folder.mkdir(exist_ok=True)
    Image.new("RGB", (32, 32)).save(folder / "0.png")
    categories = [{"id": row, "name": name} for row, name in enumerate(splits, 1)]
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [2, 2, 20, 20], "area": 400, "iscrowd": 0}
    image = {"id": 1, "file_name": "0.png", "width": 32, "height": 32}
    document = {"images": [image], "annotations": [box], "categories": categories}
    (folder / "a.json").write_text(json.dumps(document))
    split = {one: [name for name, of in splits.items() if of == one] for one in ("base", "novel")}
    (folder / "s.json").write_text(json.dumps(split))
    build_index(folder / "a.json", folder, folder / "data", split=folder / "s.json", keep="base")
    return open_index(folder / "data")


def test_a_prompt_that_has_novel_names_is_refused(tmp_path: Path) -> None:
    index = index_with(
        tmp_path,
        {"cup": "base", "hot dog": "base", "dog": "novel", "traffic light": "novel", "image": "novel"},
    )
    recipe = {"provenance": Provenance("mllm", "llm", "sha256:w").to_json()}

    def leak(prompt: str) -> str:
        return find_leak(Provenance.from_recipe({**recipe, "prompt": prompt}), index)

    assert leak(NAME_PROMPT) == "", "the default request names an image, and is no hint"
    assert leak("Is it a cup or a hot dog?") == ""
    assert "was given the names of 2 novel concepts in its prompt (dog, traffic light)" in leak(
        "Which one is it: hot dog, Dogs, or a traffic-light?"
    )
    store(index, MAKER)
    name = ColumnName("proposals/nouns")
    spec = column_spec(
        name,
        rows=3,
        width=1,
        chunk_rows=4,
        index_digest="sha256:t",
        recipe={**recipe, "prompt": "A dog?"},
    )
    open_writer(index.folder, spec, overwrite=True)
    with pytest.raises(
        UserError, match="--mllm-model llm --prompt REQUEST, with a REQUEST that does not have"
    ):
        require_no_leak(index.folder, index, str(name))
    assert [one.level for one in check_proposals(index.folder)] == ["good", "bad"]


def test_a_text_names_the_longest_concepts() -> None:
    concepts = [("dog",), ("traffic light", "stop-light")]
    assert named_in("A dogs' stop light", concepts, ["light"]) == ["dog", "traffic light"]
    assert named_in("hot dogs in light", concepts, ["light", "hot dog"]) == []
    assert named_in("a dog", [("!",), ("dog",)], ["?"]) == ["dog"]
    assert named_in("", concepts, []) == named_in("12 !", [], []) == []
