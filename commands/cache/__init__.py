"""The group `cckt cache`.

make.py        text, crops, images, all: make columns of a CLIP teacher
priors.py      priors of a CLIP teacher or a multimodal LLM
proposals.py   class-agnostic regions of images
nouns.py       the noun of each proposal, and its weight
columns.py     info, verify, diff, pull, finish: work on existing columns
tables.py      export, import, plan: tables of other programs, cost of columns
"""
