"""Faster R-CNN with a feature pyramid, as a student (docs/method/hd_ovd.md, section 7.2).

model.py      the student
rpn.py        region proposal network: anchors, scores, first boxes, losses
rois.py       RoIs of a training step; RoIAlign over the pyramid
roi_align_cpu.py  RoIAlign as a sparse product, for training on CPUs
codes.py      codes of boxes relative to anchors and RoIs
outputs.py    dataclasses that pass between these parts
criterion.py  pairs of RoIs with objects and proposals; losses
"""
