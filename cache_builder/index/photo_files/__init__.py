"""What an index knows of the files of its photos.

headers.py  read sizes and EXIF orientations of image files
record.py   digests of photos, and which files are unchanged
shared.py   photos that two data sets have in common
sizes.py    compare recorded sizes with the files
"""
