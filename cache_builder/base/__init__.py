"""What every room may import: errors, progress, files, locks, devices, shared defaults.

errors.py        UserError, a fault that the user can correct; values, counts and commands in messages
constants.py     defaults that several rooms share
progress.py      progress protocol for long-running work
atomic_files.py  files that appear complete or not at all; values as JSON can hold them
untrusted_text.py  JSON, natural numbers and characters that anybody may have written
regular_files.py read whole files that are no pipes or devices
npy_files.py     read .npy files that anybody may have written
image_files.py   open image files: listed formats only, bounded pixels, EXIF orientation
ownership.py     marks of our files; whatever lacks one is not replaced
disk_faults.py   full, read-only and missing disks as one sentence; room before long work
boxes.py         corners to left, top, width, height
digests.py       sha256 of bytes and of files
logistic.py      logistic regression on one feature
bounded.py       bounds of time and memory for a stranger's program
locks.py         lock files: one process at a time
device.py        the device of --device; the digest of a model's weights
cpu/             networks made fast on a CPU
foreign_models.py  refuse configurations with absurd numbers of layers
hub.py           loading from the Hugging Face hub without output, prompts or long waits
"""
