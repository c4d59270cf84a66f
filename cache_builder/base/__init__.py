"""What every room may import: errors, progress, files, locks, devices, shared defaults.

errors.py        UserError, a fault that the user can correct; values, counts and commands in messages
constants.py     defaults that several rooms share
progress.py      progress protocol for long-running work
atomic_files.py  files that appear complete or not at all; values as JSON can hold them
untrusted/       text, arrays, images and models that anybody may have written
ownership.py     marks of our files; whatever lacks one is not replaced
data_cards.py    what a data set says about its origin: rendered by shapeworld, found by a run
disk_faults.py   full, read-only and missing disks as one sentence; room before long work
boxes.py         corners to left, top, width, height
digests.py       sha256 of bytes and of files
logistic.py      logistic regression on one feature
listing.py       listings of folders that others change meanwhile
locks.py         lock files: one process at a time
device.py        the device of --device; the digest of a model's weights
cpu/             networks made fast on a CPU
hub.py           loading from the Hugging Face hub without output, prompts or long waits
"""
