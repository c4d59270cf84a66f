"""Measure priors against annotations, before a detector is trained on them. Needs no model.

existence.py   precision, recall, F1 and average precision per split
pope.py        yes/no questions of three difficulties (POPE)
report.py      all priors of a data set, compared with the oracle
"""
