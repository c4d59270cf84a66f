"""Distillation terms: losses that transfer the teacher's embeddings to the student.

    term.py               base class of the terms; what they receive
    region_contrast.py    CCKT-Det's contrast of regions with crops (docs/method/cckt_det.md, eqs. 19 to 22)

The table of terms is in `losses/objective.py`.
"""
