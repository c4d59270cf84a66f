"""Priors by a multimodal LLM: "Does {concept} exist in the image?", for every concept and photo.

METHOD.md section 3, "Concept-existence priors". The only room of cache_builder that imports transformers.
"""
