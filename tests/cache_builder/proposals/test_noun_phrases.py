"""From answers and lines of lists to nouns."""

from __future__ import annotations

import pytest

from cckt.cache_builder.proposals.noun_phrases import (
    EMPTY,
    NO_NOUN,
    NO_WORDS,
    REFUSED,
    noun_of,
    singular,
)


@pytest.mark.parametrize(
    ("answer", "noun"),
    [
        ("Dog", "dog"),
        ("A dog.", "dog"),
        ("This is a red umbrella.", "red umbrella"),
        ("two dogs on a sofa", "dog"),
        ("The main object in this image is a large red fire hydrant.", "fire hydrant"),
        ("It's a cat", "cat"),
        ("It appears to be a toaster", "toaster"),
        ("I think it is a dog", "dog"),
        ("The image shows a teddy bear sitting on a chair", "teddy bear"),
        ("A photo of a zebra", "zebra"),
        ("**Bus**", "bus"),
        ('"Hot dogs"', "hot dog"),
        ("Answer: skis", "ski"),
        ("wine glasses", "wine glass"),
        ("cow, standing", "cow"),
        ("stop sign in the street", "stop sign"),
        ("crème brûlée", "crème brûlée"),
        ("自転車", "自転車"),
        ("T-shirts", "t-shirt"),
        ("cup of coffee", "cup"),
        ("traffic_light", "traffic light"),
        ("A large, brown dog", "brown dog"),
        ("dog, cat, and bird", "dog"),
        ("A black and white cat", "white cat"),
        ("An orange and white cat", "white cat"),
        ("orange and apple", "orange"),
        ("orange, apple", "orange"),
        ("The object in the image is a red and white umbrella", "white umbrella"),
        ("red and a blue car", "red"),
        ("A pair of scissors.", "scissors"),
        ("a pair of red skis", "red ski"),
        ("a bunch of bananas", "banana"),
        ("A slice of pizza on a plate", "pizza"),
        ("A group of people", "person"),
        ("A close up of a dog", "dog"),
        ("Close-up of the face of a dog", "face"),
        ("a blurry photo of a zebra", "zebra"),
        ("bowl of fruit", "bowl"),
        ("running shoes", "running shoe"),
        ("a red flying disc", "flying disc"),
        ("a man riding a horse", "man"),
        ("a large dog running fast", "large dog"),
        ("3D printer", "3d printer"),
        ("2 dogs", "dog"),
        ("French fries", "french fries"),
    ],
)
def test_the_noun_of_an_answer(answer: str, noun: str) -> None:
    assert noun_of(answer) == (noun, "")
    assert noun_of(noun) == (noun, ""), "a noun is its own noun"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("", EMPTY),
        (" \n", EMPTY),
        ("...", NO_WORDS),
        ("123 !", NO_WORDS),
        ("the", NO_NOUN),
        ("x" * 31, NO_NOUN),
        ("standing", NO_NOUN),
        ("holding a phone", NO_NOUN),
        ("No", REFUSED),
        ("None", REFUSED),
        ("Nothing in the image.", REFUSED),
        ("There is no object", REFUSED),
        ("I cannot tell.", REFUSED),
        ("I'm sorry, I can't", REFUSED),
        ("unclear", REFUSED),
    ],
)
def test_answers_without_a_noun(answer: str, reason: str) -> None:
    assert noun_of(answer) == ("", reason)


@pytest.mark.parametrize(
    ("plural", "one"),
    [
        ("buses", "bus"), ("horses", "horse"), ("houses", "house"), ("boxes", "box"), ("benches", "bench"),
        ("berries", "berry"), ("ties", "tie"), ("potatoes", "potato"), ("shoes", "shoe"), ("knives", "knife"),
        ("people", "person"), ("vases", "vase"), ("dresses", "dress"), ("toothbrushes", "toothbrush"),
        ("bananas", "banana"), ("giraffes", "giraffe"), ("glasses", "glasses"), ("scissors", "scissors"),
        ("bus", "bus"), ("dress", "dress"), ("gas", "gas"), ("sheep", "sheep"), ("tv", "tv"), ("keys", "key"),
        ("fries", "fries"), ("horseshoes", "horseshoe"), ("thermos", "thermos"), ("flies", "fly"),
        ("fuses", "fuse"), ("heroes", "hero"),
    ],
)  # fmt: skip
def test_singulars(plural: str, one: str) -> None:
    assert singular(plural) == one
    assert singular(one) == one


def test_lines_of_lists_keep_all_their_words() -> None:
    assert noun_of("the cell phone charger cables", None) == ("cell phone charger cable", "")
    assert noun_of("bow_(weapon)", None) == ("bow weapon", "")
    assert noun_of("A", None)[0] == ""
    names = ("boeing 737", "boeing 747", "a320", "3D printer", "black and white cat", "pair of dice")
    assert [noun_of(name, None)[0] for name in names] == [name.lower() for name in names]
