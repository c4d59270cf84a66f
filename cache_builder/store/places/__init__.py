"""Where columns are kept, and how their rows are read there.

contract.py    ChunkFiles, what the store needs of a place
files.py       a local folder; open a folder or a URL
remote.py      object stores and other places that fsspec reaches
mapped.py      rows of local chunk files, memory-mapped
fetched.py     rows of chunk files that cannot be mapped
"""
