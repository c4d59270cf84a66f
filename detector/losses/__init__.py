"""The training objective: the student's detection losses plus the distillation terms of the config.

objective.py            the sum, and the table of terms
terms/                  one file per distillation term
similarity_losses.py    contrast with queues, and relation loss: what terms of HD-OVD share
memory.py               queues and prototypes, which checkpoints save
region_slots.py         regions of the pairs, one slot per object or proposal
nouns.py                nouns of proposals as columns of texts, with their weights
"""
