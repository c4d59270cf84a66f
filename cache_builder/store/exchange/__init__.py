"""Columns as tables of other programs. Only this folder imports pyarrow.

parquet_out.py  write a column as a Parquet file, one row group for each chunk
npy_out.py      write a column as .npy files
tables_in.py    read tables of (id, vector) that were made elsewhere
"""
