"""Backbones of students: feature maps of timm models, and the pyramid over them.

backbone.py          feature maps of timm models, and the pyramid of Deformable DETR
backbone_weights.py  pretrained weights of backbones, from files with timm's names
fpn.py               feature pyramid network
same_padding.py      layers with the padding SAME, in a form for graphs
input_sides.py       sizes of images that a backbone accepts
frozen_norm.py       fold frozen BatchNorm into convolutions, for training
cpu_backbone.py      backbones for a CPU: norms folded into fused convolutions, for inference
"""
