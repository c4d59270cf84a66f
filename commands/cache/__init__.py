"""The verbs of `cckt cache`.

make.py        text, crops, images, all: cache the features of a CLIP teacher
priors.py      priors of a CLIP teacher or a multimodal LLM
proposals.py   class-agnostic regions of images
nouns.py       the noun of each proposal, and its weight
columns.py     info, verify, diff, pull, finish: look after columns
"""
