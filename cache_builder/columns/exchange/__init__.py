"""Columns to and from the tables of other programs; the file formats are in `store/exchange`.

column_out.py  export a column with the ids, names and boxes of its rows
column_in.py   make a column from a table of ids and vectors
"""
