"""Which concepts an image holds: CLIP's probability of it, and the annotations' own word (the oracle)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cckt.cache_builder.index import Index


def clip_probability(
    images: NDArray[np.floating], text: NDArray[np.floating], tau: float = 0.07
) -> NDArray[np.float32]:
    """(I, C) float32: sigma(cos(image, text) / tau) of (I, D) and (C, D) unit rows (METHOD.md section 3)."""
    logits = images.astype(np.float32) @ text.astype(np.float32).T / np.float32(tau)
    # sigma(x) = (1 + tanh(x / 2)) / 2, which overflows nowhere
    probability: NDArray[np.float32] = (0.5 * (1.0 + np.tanh(0.5 * logits))).astype(np.float32)
    return probability


def oracle_presence(index: Index) -> NDArray[np.bool_]:
    """(I, C) bool: the concept is annotated in the photo, crowds included.

    An upper bound for priors, and what training uses. It sees what the index sees: built with keep="base",
    no novel concept is ever present.
    """
    presence = np.zeros((len(index), len(index.concepts)), bool)
    presence[index.box_images, index.box_concepts] = True
    return presence
