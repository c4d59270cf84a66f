"""Who does the work of a command: this process, makers of a job array, or the nodes of a Ray cluster.

choice.py   the options --engine, --address, --actors, --exact-part, --print-sbatch, and what they choose
spread.py   predict and pseudo on the nodes of a Ray cluster
"""
