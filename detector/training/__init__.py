"""Training: from a data set with columns to a run folder.

train.py              the loop: steps, checkpoints, evaluations
run.py                state of a run; save, restore, resume
step.py               one optimiser step
optim.py              parameter groups, learning rates, moving average of the weights
start_weights.py      start from the weights of another run or of a public detector; who trained them
public_names.py       names of weights of transformers and detrex, and ours
length.py             epochs that fit a number of photos, or a budget of minutes
forecast.py           epochs for a number of photos; warnings before a run starts
preflight.py          checks before the first step
monitor.py            log, progress display, spikes, skipped steps
process.py            versions, memory, signals, deterministic kernels
"""
