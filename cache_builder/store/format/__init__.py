"""What a column is on disk: its description, its manifest, its files and their names.

spec.py        describe a column before a row of it exists; digests and runs of row numbers
file_names.py  names of the files of a column, and which names are of no column
manifest.py    the manifest: what a column is, with a digest of every chunk
layout.py      the zarr documents of the arrays
block.py       the arrays of one chunk: rows in their dtype, flags of valid rows
ledger.py      the ledgers: which chunks of an unfinished column are complete
"""
