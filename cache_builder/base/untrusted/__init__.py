"""Read what anybody may have written: every reader of foreign bytes goes through one of these files.

text.py            JSON, natural numbers and characters
regular_files.py   read whole files that are no pipes or devices
npy_files.py       .npy files, without pickle
image_files.py     image files: listed formats only, bounded pixels, EXIF orientation
foreign_models.py  refuse configurations with absurd numbers of layers
bounded.py         bounds of time and memory for a stranger's program
"""
