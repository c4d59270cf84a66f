"""Check every byte of a column, and mark chunks to be made again.

check.py   check the files of a column, one chunk at a time
verify.py  verify a column; what to do about its problems
"""
