"""The kinds of columns that hold the nouns of proposals: a part of the table in `kinds.py`."""

from __future__ import annotations

from cckt.cache_builder.base.constants import CHOOSE, CROP, NAME_PROMPT, PRECISION, W_MAX
from cckt.cache_builder.store.settings import ColumnKind, Setting, at, source_of

_NAMING = (
    Setting("--mllm-model", at("model", "name")),
    Setting("--prompt", at("prompt"), NAME_PROMPT),
    Setting("--crop", at("crop", "rule"), CROP),
    Setting("--precision", at("model", "dtype"), PRECISION),
    Setting("--ask", at("ask")),
    Setting("--choose", lambda recipe: "teacher" if "ask" in recipe else at("choose")(recipe), CHOOSE),
)

NOUN_KINDS = (
    ColumnKind(
        name="proposals/answers",
        table="proposals",
        dtype="uint8",
        unit=False,
        has_valid=True,
        takes_label=False,
        views=(),
        settings=_NAMING,
        help="answer of a multimodal LLM to the request to name a proposal, UTF-8 padded with zeros",
        verb="nouns",
        takes_out=False,
    ),
    ColumnKind(
        name="proposals/nouns",
        table="proposals",
        dtype="int32",
        unit=False,
        has_valid=True,
        takes_label=True,
        views=(),
        settings=(*_NAMING, Setting("--nouns-from", source_of("words", "WORDS_FILE"))),
        help="noun of a proposal, a row of the column noun_texts",
        verb="nouns",
        takes_out=False,
    ),
    ColumnKind(
        name="proposals/noun_texts",
        table="nouns",
        dtype="float32",
        unit=True,
        has_valid=False,
        takes_label=True,
        views=(),
        settings=(
            Setting("--teacher", at("teacher", "name")),
            *_NAMING,
            Setting("--nouns-from", source_of("words", "WORDS_FILE")),
        ),
        help="embedding of each different noun by the teacher",
        verb="nouns",
        takes_out=False,
    ),
    ColumnKind(
        name="proposals/noun_weights",
        table="proposals",
        dtype="float32",
        unit=False,
        has_valid=True,
        takes_label=True,
        views=(),
        settings=(Setting("--w-max", at("weight", "w_max"), W_MAX),),
        help="weight of the noun of a proposal, from the cosine of crop and noun",
        verb="fit-nouns",
        takes_out=False,
    ),
)
"""What `cckt cache nouns` makes."""
