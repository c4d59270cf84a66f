"""The frozen CLIP whose embeddings are cached: loading, preprocessing, prompts.

clip.py          load a teacher by its name
crop_rules.py    which pixels around a box the teacher sees
foreign_code.py  refuse a teacher whose files contain code
recorded.py      a teacher that a run or a column names: the user's own, or asked for
encoder.py       the frozen model: unit embeddings of images and sentences
preprocess.py    the teacher's preprocessing, without the teacher
two_stream.py    a ViT with a second class token for the patches of a box
prompts.py       from concept names to sentences; text ensembles
short_texts.py   embed sentences without the padding behind them
text_cache.py    text embeddings of concepts that were asked for before, kept on disk
guide.py         a teacher for new concepts and new images at inference
"""
