"""Concept-existence priors (docs/method/cckt_det.md, eqs. 6 and 31) and names from multimodal LLMs.

    load.py            load a model with its processor, frozen
    yes_no_tokens.py   the tokens that spell yes and no, and eq. 6
    wrapping.py        put an image and a text into the form that a model takes
    namer.py           name crops
    questions.py       tokenise the questions about an image: shared prefix and suffixes
    strategies.py      ways to run the questions of an image through a model
    prefix_cache.py    masks, positions and caches of suffixes behind a shared prefix
    shared_vision.py   run the vision tower once per image
    scorer.py          choose a strategy, score all concepts of an image
    calibrate.py       fit temperature and bias on base concepts
    prefilter.py       ask only about the concepts that another column ranks first

There is one question per concept and image. All questions about an image share the image tokens, nine tenths
of the work, which are computed once. The only room of cache_builder that imports transformers.
"""

from __future__ import annotations

from cckt.cache_builder.mllm.load import DEFAULT_MODEL, Mllm, default_model, load_mllm
from cckt.cache_builder.mllm.questions import PROMPT, Questions
from cckt.cache_builder.mllm.scorer import Scorer

__all__ = [
    "DEFAULT_MODEL",
    "PROMPT",
    "Mllm",
    "Questions",
    "Scorer",
    "default_model",
    "load_mllm",
]
