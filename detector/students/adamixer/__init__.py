"""AdaMixer with dense first boxes, as a student (docs/method/hd_ovd.md, section 7.1).

model.py       the student
dense.py       dense boxes on the pyramid: shared tower, main and auxiliary head
dense_loss.py  their one-to-one and one-to-many assignment, and their loss
stage.py       a stage: self-attention, sampling and mixing, feed-forward, heads
mixing.py      sampling of points from the pyramid, and adaptive mixing of what they read
coding.py      boxes as centre, scale and ratio
outputs.py     dataclasses that pass between these parts
criterion.py   pairs of queries with objects and proposals; losses
"""
