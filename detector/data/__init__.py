"""Training data: from an index and its columns to batches.

dataset.py            training samples; batches, read by workers
batch.py              a sample, a batch, collation
schedule.py           order of images; random generators
transforms.py         views of an image: crop, flip, resize, pad, normalise
mosaic.py             four photos in the quarters of one
gpu_decode.py         decode JPEGs on the GPU
class_crops.py        one cached crop of every base class: the bank of the authors' code
row_source.py         the seam of teacher rows: a view in, rows out
teacher_rows.py       the table of teacher rows; crops of objects
proposal_rows.py      rows of proposals and of whole images
presence.py           concepts that guide training images; guidance noise
training_priors.py    guidance of training images by priors
"""
