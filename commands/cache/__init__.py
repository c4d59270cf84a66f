"""The group `cckt cache`.

make.py     text, crops, images, all: make columns of a CLIP teacher
priors.py   priors: concept probabilities from CLIP or a multimodal LLM
columns.py  info, verify, diff, pull, finish: work on existing columns
tables.py   export, import, plan: tables of other programs, cost of columns
"""
