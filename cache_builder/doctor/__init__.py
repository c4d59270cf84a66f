"""Checks of the installation, of data sets and their columns, and of teachers and multimodal LLMs.

Each check returns findings. It prints nothing and repairs nothing. The checks of recipes and runs are in
`cckt.detector.doctor`.

finding.py   the result of one check
machine.py   the installation, cores, memory and devices
data.py      tables, photos, columns, proposals and leaks of a data set
models.py    teachers and multimodal LLMs
"""
