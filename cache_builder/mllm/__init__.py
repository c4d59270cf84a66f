"""Priors by a multimodal LLM: "Does {concept} exist in the image?", for every concept and photo.

METHOD.md section 3, "Concept-existence priors". The picture, nine tenths of the work, is the same in all
questions about a photo; it is computed once. The only room of cache_builder that imports transformers.
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
