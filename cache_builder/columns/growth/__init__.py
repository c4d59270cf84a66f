"""Grow a column with its data set: copy the rows of an older column, make only the others.

begin.py   begin a column next to the older one, prove that rows may be copied, exchange the two
donor.py   which rows of an older column can be copied
tables.py  the index or the proposals of an older column; put a finished column in its place
"""
