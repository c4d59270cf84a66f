"""Training: from a data set with columns to a run folder.

train.py              the loop: steps, checkpoints, evaluations
run.py                state of a run; save, restore, resume
step.py               one optimiser step
optim.py              parameter groups, learning rates, moving average of the weights
preflight.py          checks before the first step
monitor.py            log, progress display, spikes, skipped steps
process.py            versions, memory, signals, deterministic kernels
"""
