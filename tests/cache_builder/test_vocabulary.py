"""Concepts and free vocabularies."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.vocabulary import Concept, Vocabulary, normalise_name


def test_an_empty_vocabulary_has_no_rows() -> None:
    empty = Vocabulary([])
    assert len(empty) == 0
    assert empty.names == []
    assert empty.rows().shape == empty.category_ids.shape == (0,)
    assert empty.category_ids.dtype == np.int64
    with pytest.raises(UserError, match="is empty"):
        empty.row_named("dog")


def test_rows_follow_the_order_of_concepts() -> None:
    vocabulary = Vocabulary(
        [
            Concept(7, "car", split="base"),
            Concept(2, "tv", ("television",), "novel", "r"),
            Concept(5, "x", split="other"),
        ]
    )
    assert vocabulary.category_ids.tolist() == [7, 2, 5]
    assert vocabulary.rows("base").tolist() == [0]
    assert vocabulary.rows("base", "novel").tolist() == [0, 1]
    assert vocabulary.rows().tolist() == [0, 1, 2]
    assert vocabulary.in_split("novel", "other").tolist() == [False, True, True]
    assert vocabulary.row_of(2) == 1
    assert vocabulary[1].name == "tv"
    assert vocabulary[1:] == (vocabulary[1], vocabulary[2])
    with pytest.raises(KeyError):
        vocabulary.row_of(3)


def test_a_concept_is_found_by_name_and_synonym() -> None:
    vocabulary = Vocabulary(
        [Concept(1, "fire_truck"), Concept(2, "tv", ("television set",)), Concept(3, "Television_Set")]
    )
    assert vocabulary.row_named("Fire Truck") == 0
    assert vocabulary.row_named("television set") == 2, "a name goes before a synonym"
    with pytest.raises(UserError, match=r"'fire truk'; did you mean 'fire_truck'\?"):
        vocabulary.row_named("fire truk")


def test_json_keeps_every_field_and_the_digest_sees_each() -> None:
    concept = Concept(3, "été", ("summer",), "base", "c")
    vocabulary = Vocabulary([concept, Concept(9, "b")])
    assert Vocabulary.from_json(vocabulary.to_json()) == vocabulary
    assert hash(Vocabulary.from_json(vocabulary.to_json())) == hash(vocabulary)
    others = [
        Concept(4, "été", ("summer",), "base", "c"), Concept(3, "ete", ("summer",), "base", "c"),
        Concept(3, "été", (), "base", "c"), Concept(3, "été", ("summer",), "novel", "c"),
        Concept(3, "été", ("summer",), "base", "r"),
    ]  # fmt: skip
    digests = {Vocabulary([other, Concept(9, "b")]).digest for other in others} | {vocabulary.digest}
    digests.add(Vocabulary([Concept(9, "b"), concept]).digest)
    assert len(digests) == 7


@pytest.mark.parametrize(
    "change",
    [
        {"category_id": ""},
        {"category_id": 1.0},
        {"category_id": True},
        {"category_id": 2**64},
        {"name": 3},
        {"synonyms": [None]},
        {"synonyms": 4},
        {"other": 1},
    ],
)
def test_records_that_are_no_concepts_are_refused(change: dict[str, object]) -> None:
    (record,) = Vocabulary([Concept(3, "cat", ("kitten",))]).to_json()
    with pytest.raises((ValueError, TypeError)):
        Vocabulary.from_json([{**record, **change}])


def test_a_free_vocabulary_is_typed_with_commas_and_bars() -> None:
    vocabulary = Vocabulary.free(" forklift,  euro   pallet , tv | television,")
    assert vocabulary.names == ["forklift", "euro pallet", "tv"]
    assert vocabulary[2].synonyms == ("television",)
    assert vocabulary.category_ids.tolist() == [1, 2, 3]
    assert vocabulary.rows("novel").tolist() == [0, 1, 2]
    assert Vocabulary.free(["a, b", "c|d"]).names == ["a, b", "c"], "in a list a comma belongs to the name"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the vocabulary is empty"),
        ("  ", "the vocabulary is empty"),
        ([], "the vocabulary is empty"),
        ("dog,,cat", r"entry 2 .*empty name"),
        ("dog,tv|", r"entry 2 .*empty name"),
        (",dog", r"entry 1 .*empty name"),
        ("dog, cat, Dog", r"'Dog' twice \(entries 1 and 3\)"),
        ("tv|television, television", r"'television' twice"),
    ],
)
def test_a_mistyped_vocabulary_is_refused(text: str | list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Vocabulary.free(text)


@settings(deadline=None, max_examples=50)
@given(
    st.lists(
        st.text("abcdé _-'", min_size=1).filter(str.strip), min_size=1, max_size=6, unique_by=normalise_name
    )
)
def test_free_names_come_back_as_typed_up_to_spaces(names: list[str]) -> None:
    vocabulary = Vocabulary.free(",".join(names))
    assert vocabulary.names == [" ".join(name.split()) for name in names]
