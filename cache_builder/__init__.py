"""The offline half: from annotated images to verified columns of teacher embeddings.

base/          errors, progress, files, locks: what every room may import
vocabulary.py  concepts in order
index/         the tables of a data set, from annotations
presence.py    which concepts an image holds
photos.py      photos from disk to pixels
store/         columns on disk
proposals/     the proposals table: provenance, selection, reader, leak guard
runner/        read, encode and write in chunks
teacher/       the frozen CLIP
mllm/          the multimodal LLM
detectors/     detectors of transformers, for proposals
columns/       make and verify columns
quality/       how good priors are
doctor/        checks of installation, machine, data sets and teachers
"""
