"""Networks made fast on a CPU, for teachers and students alike.

fold_norms.py  batch norms folded into convolutions
tiles.py       a batch in tiles that one thread each computes
"""
