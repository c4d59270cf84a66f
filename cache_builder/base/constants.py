"""Defaults that several rooms share: one home for the value of an option, of a signature and of a recipe.

Light, so that the command line can import it for `--help`.
"""

from __future__ import annotations

SHAPEWORLD = "shapeworld"
"""Name of the teacher that is installed with shapeworld."""

EXAMPLE_TEACHER = "ViT-B-32/laion2b_s34b_b79k"
"""Teacher in hints for data other than shapeworld."""

TAU = 0.07
"""Temperature of cosines; docs/method/cckt_det.md, eqs. 5 and 12."""

RHO = 0.70
"""Smallest probability that counts as present; docs/method/cckt_det.md, eq. 7."""

LIMIT = 6
"""Largest number of present concepts per image, L; docs/method/cckt_det.md, eq. 7. 12 for LVIS."""

TEMPLATES = "ensemble12"
"""Templates of the text embeddings; docs/method/cckt_det.md, eq. 1."""

CROP = "box"
"""Crop rule; docs/method/cckt_det.md, section 3."""

BATCH = 256
"""Images, or sentences, that a teacher encodes together."""

CHUNK_ROWS = 512
"""Rows of a chunk of crops or images. A kill loses the chunks in hand, usually two or three."""

PRECISION = "fp32"
"""Precision of matrix products in a teacher or a multimodal LLM."""

TABLE = "boxes"
"""Table whose boxes are cropped: the annotated ones."""

TOP = 50
"""Most proposals of an image."""

NMS = 0.6
"""IoU above which the worse of two proposals is dropped."""

MIN_SIDE = 16.0
"""Shortest side of a box with an embedding, and default of the shortest side of a proposal, in pixels."""

REPEATS = 0.5
"""IoU from which a proposal repeats an annotated box."""

PROPOSAL_BATCH = 8
"""Images that a detector sees together when it makes proposals."""

SAW_NOVEL = "unknown"
"""Whether the maker of proposals saw novel classes, unless the user says it."""

PROMPT = "Question: Does {concept} exist in the image? Answer:"
"""Question to a multimodal LLM; docs/method/cckt_det.md, section 3."""

W_MAX = 1.3
"""Largest weight of a noun; docs/method/hd_ovd.md, eq. 12."""

NAME_PROMPT = "Name the main object in this image in one or two words."
"""Request to a multimodal LLM for the noun of a crop; docs/method/hd_ovd.md, section 3."""

CHOOSE = "answers"
"""Who chooses the noun of a proposal: its own answer, or the teacher among all answers."""

WORKERS_LIMIT = 1024
"""Most workers that can be asked for: more would take the machine before they do anything."""

EXACT = 2**53
"""Integers below this bound have a float of their own; a float id above it may be the rounding of another."""
