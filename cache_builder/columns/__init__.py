"""Make columns, one file for each kind, and make rows of them again to verify them.

text.py             text embeddings of concepts, or an imported table
crops.py            image embeddings of annotated boxes, or of proposals
views.py            mirrored and jittered boxes
images.py           image embeddings of whole images
clip_priors.py      priors from the columns images and text
mllm_priors.py      priors from a multimodal LLM
proposals.py        class-agnostic regions of images, from a detector or a file
proposal_copies.py  rows of proposals that are copied from an older table
nouns/              the noun of each proposal, its embedding and its weight
all_at_once.py      several columns with every photo decoded once
fast_pixels.py      pixels of --fast, and the agreement of their embeddings
plan.py             what columns will cost
options.py          options that the makers of columns share
teachers.py         several teachers at once, and their labels
report.py           the outcome of a maker
remake.py           what is needed to make rows of a column again
recompute.py        verify columns; REMAKE, how rows of each kind are made again

growth/             copy rows of an older column
exchange/           export columns, import tables of vectors
"""
