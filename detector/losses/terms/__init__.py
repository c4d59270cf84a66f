"""Distillation terms: losses that transfer the teacher's embeddings to the student.

    term.py               base class of the terms; what they receive
    region_contrast.py    CCKT-Det's contrast of regions with crops (docs/method/cckt_det.md, eqs. 19 to 22)

    HD-OVD (docs/method/hd_ovd.md):

    instance_term.py          what the two terms of the instance level share
    instance_contrast.py      contrast of regions with crops, with queues (eq. 18)
    instance_relation.py      relations among regions as among crops (eq. 19)
    noun_term.py              what the two terms of the class level share
    novel_aware_classes.py    classes over base texts, nouns and a background (eqs. 22 to 28)
    text_relation.py          relations and contrast in text space, with prototypes (eqs. 29 to 36)
    image_contrast.py         contrast of whole images, with queues (eqs. 37 to 39)

The table of terms is in `losses/objective.py`.
"""
