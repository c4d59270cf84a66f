"""From an answer of a model, or a line of a word list, to a noun: one spelling for each name.

A noun is lower-case, singular where English spelling makes that plain, without article, and of at most two
words: the first noun phrase of the answer. There is no parser of sentences here, only the short rules below.
They need no model and give the same noun on every machine.
"""

from __future__ import annotations

import re
import unicodedata

MOST_WORDS = 2
"""Words of a noun: the last ones of its phrase, since in English the head comes last."""

_MOST_OF_NAME = 5
"""Words of a part of a name; a noun of an answer has fewer."""

RULES = "noun phrases 2"
"""Name of these rules in a column's recipe; raise the number when a rule changes."""

EMPTY = "the answer is empty"
NO_NOUN = "the answer has no noun"
NO_WORDS = "the answer has no words"
REFUSED = "the model gave no name"

_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")  # letters of any script, joined by ' or -
_WORD_OR_NUMBER = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_LONGEST = 30
"""Letters of the longest word; an untrained model writes longer ones."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_DETERMINERS = _words(
    "a an the some this that these those my your his her its our their one two three four five six seven "
    "eight nine ten several many few multiple various both another single"
)
_LINKS = _words(
    "is are was were be been being seems seem appears appear looks look shows show depicts depict "
    "contains contain features feature has have to like can see sees"
)
"""Words after which the noun phrase of "This is a dog" begins, if only openers come before them."""

_OPENERS = _words(
    "it it's that's this that there here there's these those they what i think believe you the main "
    "primary central object subject item thing image picture photo photograph crop answer in of shown "
    "name called"
)
"""Words before a link in such a sentence."""

_ENDS = _words(
    "in on of with at by and or from for near behind under over above below next inside against into "
    "which who whose that while as but through around between beside beneath across along without during "
    "it there made filled covered"
)
"""Words that end a noun phrase."""

_PARTICIPLES = _words(
    "sitting standing lying holding wearing eating walking running flying riding playing looking hanging "
    "parked"
)
"""They end a noun phrase too, unless they begin it: "a man riding", but "a red flying disc"."""

_ADJECTIVES = _words(
    "red yellow green blue purple pink brown black white gray grey beige dark light bright pale blonde "
    "colorful colourful small large big little tiny huge giant long short tall wide thin thick old new young "
    "round square rectangular oval wooden metallic striped spotted shiny fluffy cute beautiful empty"
)
_COLOURED_THINGS = _words("orange gold silver cream rose tan")
"""Adjectives only before another one: "orange and white cat", but "orange and apple"."""

_MEASURES = _words(
    "pair pairs bunch bunches slice slices piece pieces group groups set row rows pile stack herd flock "
    "crowd collection couple variety type kind part image picture photo photograph close-up closeup view"
)
"""Words before an "of" that is followed by the noun: "a pair of scissors", "a photo of a dog"."""

_NO_NAME = _words("none nothing unknown na no yes not nope it they something anything everything someone")
"""Words that name nothing; an answer whose phrase begins with one has no noun."""

_REFUSALS = _words("cannot can't couldn't don't unable sorry unclear unsure unidentifiable unrecognizable")
"""Words of an answer that refuses, wherever they are."""

_SAME = _words(
    "glasses sunglasses eyeglasses scissors jeans pants trousers shorts goggles binoculars pliers tongs "
    "tweezers pajamas pyjamas clothes series species gas canvas atlas christmas lens chess news "
    "headphones earphones stairs swiss asparagus fries thermos rhinoceros molasses"
)
_IRREGULAR = {
    "people": "person",
    "men": "man",
    "women": "woman",
    "children": "child",
    "mice": "mouse",
    "geese": "goose",
    "feet": "foot",
    "teeth": "tooth",
    "oxen": "ox",
    "knives": "knife",
    "wives": "wife",
    "lives": "life",
    "leaves": "leaf",
    "loaves": "loaf",
    "shelves": "shelf",
    "wolves": "wolf",
    "calves": "calf",
    "halves": "half",
    "scarves": "scarf",
    "thieves": "thief",
    "flies": "fly",
    "skies": "sky",
    "spies": "spy",
    "fuses": "fuse",
    "toes": "toe",
    "canoes": "canoe",
    "lenses": "lens",
    "gases": "gas",
    "quizzes": "quiz",
    "cookies": "cookie",
    "brownies": "brownie",
    "movies": "movie",
    "zombies": "zombie",
    "hoodies": "hoodie",
    "smoothies": "smoothie",
    "selfies": "selfie",
    "axes": "axe",
    "headaches": "headache",
    "moustaches": "moustache",
    "skis": "ski",
    "taxis": "taxi",
    "kiwis": "kiwi",
    "mustaches": "mustache",
}
_PLURALS = (
    (re.compile(r"(?:ss|us|is)$"), ""),  # glass, bus, tennis
    (re.compile(r"(?<=..[^aeiou])ies$"), "y"),  # berries; not ties
    (re.compile(r"shoes$"), "shoe"),  # horseshoes
    (re.compile(r"(?<=[^aeiou])oes$"), "o"),  # potatoes
    (re.compile(r"(?<=ss|sh|ch)es$"), ""),  # glasses, brushes, benches
    (re.compile(r"(?<=x)es$"), ""),  # boxes
    (re.compile(r"(?<=[^o]us)es$"), ""),  # buses, cactuses; not houses
    (re.compile(r"(?<=..)s$"), ""),  # dogs, horses
)
"""The first pattern that is found decides; "" with a pattern of a singular keeps the word."""


def noun_of(answer: str, most_words: int | None = MOST_WORDS) -> tuple[str, str]:
    """Return (noun, "") of an answer, or ("", why it has none).

    "This is a red umbrella." -> "red umbrella"; "Two dogs on a sofa" -> "dog". most_words: None keeps the
    whole phrase with its numbers, for names and word lists, in which a line is a phrase already.
    """
    text = _plain(answer).strip()
    if not text:
        return "", EMPTY
    sentence = _first_sentence(text) if most_words is not None else text
    words = _WORD_OR_NUMBER.findall(sentence)
    if not any(map(_WORD.search, words)):
        return "", NO_WORDS
    if most_words is not None:
        words = _phrase([word for word in words if _WORD.search(word)])
    words = _without_determiners(words)
    if not words:
        return "", NO_NOUN
    if most_words is not None:
        if words[0] in _NO_NAME or _REFUSALS & set(words):
            return "", REFUSED
        words = _head(words)[-most_words:]
    words = [word.removesuffix("'s") for word in words]
    if not words or any(len(word) > _LONGEST for word in words):
        return "", NO_NOUN
    if len(words) > 1 and words[-1] == "glasses":  # alone they are spectacles
        words = [*words[:-1], "glass"]
    return " ".join([*words[:-1], singular(words[-1])]), ""


def _head(words: list[str]) -> list[str]:
    """Return the noun phrase that words begin with."""
    at = 0
    while at < len(words):
        word, rest = words[at], words[at + 1 :]
        begun = any(one not in _ADJECTIVES for one in words[:at])
        if word == "of" and at and words[at - 1] in _MEASURES and rest:
            return _head(_without_determiners(rest))
        if word in ("and", "or") and at and _joins(words[at - 1], rest):
            words, at = rest, 0
            continue
        if word in _PARTICIPLES and not begun and rest and rest[0] not in _DETERMINERS | _ENDS | _LINKS:
            at += 1
            continue
        if word in _ENDS or word in _LINKS or word in _PARTICIPLES:
            return words[:at]
        at += 1
    return words


def _joins(before: str, after: list[str]) -> bool:
    """Whether an "and", or a comma, joins two adjectives of one noun: "a black and white cat"."""
    if not after or after[0] in _DETERMINERS:
        return False
    both = before in _COLOURED_THINGS and after[0] in _ADJECTIVES | _COLOURED_THINGS
    return before in _ADJECTIVES or both


def _without_determiners(words: list[str]) -> list[str]:
    while words and words[0] in _DETERMINERS:
        words = words[1:]
    return words


def phrases_of(name: str) -> set[str]:
    """Return a name with what else it names: the parts of a list, without "a photo of" and adjectives.

    "Cat/Kitten" names "cat" and "kitten", and "a photo of a red umbrella" names "umbrella", which "umbrella
    stand" does not.
    """
    found = {name}
    for part in re.split(r"[,/;|]|\band\b|\bor\b", _plain(name)):
        numbered = not all(map(_WORD.search, words_of(part)))
        phrase = [] if numbered else noun_of(part, _MOST_OF_NAME)[0].split()
        while phrase and phrase[0] in _ADJECTIVES:
            found.add(" ".join(phrase))
            phrase = phrase[1:]
        found |= {part.strip(), " ".join(phrase)}
    return found - {""}


def words_of(text: str) -> list[str]:
    """Return the words and numbers of a text in lower case, without punctuation."""
    return _WORD_OR_NUMBER.findall(_plain(text))


def joined(words: list[str]) -> str:
    """Return the words of a name as one word, for comparing names: without article, in the singular.

    "a traffic light", "Traffic-Lights" and "trafficlight" are equal; "thing 5" and "thing 6" are not.
    """
    if words and words[0] in ("a", "an", "the"):
        words = words[1:]
    return "".join([*words[:-1], *map(singular, words[-1:])]).replace("-", "")


def singular(word: str) -> str:
    """Return the singular of a lower-case English noun where its spelling makes that plain, else the word."""
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if word in _SAME or not word.endswith("s") or len(word) < 4:
        return word
    for pattern, end in _PLURALS:
        if pattern.search(word):
            return word if pattern is _PLURALS[0][0] else pattern.sub(end, word)
    return word


def _plain(text: str) -> str:
    plain = unicodedata.normalize("NFKC", text).lower().replace("’", "'").replace("_", " ")
    return plain.replace("close up", "close-up")


def _first_sentence(text: str) -> str:
    """The first part with a letter; after "answer:" and the like, what follows the colon.

    A comma ends it too, unless it stands between two adjectives: "a large, brown dog".
    """
    parts = [part for part in re.split(r"[.!?;\n]+", text) if _WORD.search(part)]
    first, *others = [part for part in (parts[0] if parts else text).split(",") if _WORD.search(part)] or [
        text
    ]
    for other in others:
        if not _joins(_WORD.findall(first)[-1], _WORD.findall(other)):
            break
        first = f"{first} {other}"
    before, colon, after = first.partition(":")
    return after if colon and _WORD.search(after) else before


def _phrase(words: list[str]) -> list[str]:
    """The words after "this is", "the main object in the image is" and the like; all words without these."""
    at = 0
    while at < len(words) and words[at] in _OPENERS:
        at += 1
    rest = words[at:]
    contracted = at > 0 and words[at - 1] in ("it's", "that's", "there's")
    if contracted or (at > 0 and rest and rest[0] in _LINKS):
        while rest and rest[0] in _LINKS:
            rest = rest[1:]
        return rest
    return words
