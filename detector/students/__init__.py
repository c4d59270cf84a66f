"""Students: detectors that learn from boxes and from a teacher's embeddings, and the parts that they share.

contract.py           base class `Student`; its inputs, output, pairs and losses
build.py              the table of students
targets.py            targets of images, padded for a batch
matching.py           matching costs and Hungarian assignment
detection_loss.py     class and box losses of matched regions
backbone.py           feature maps of timm models, and the pyramid over them
backbone_weights.py   pretrained weights of backbones, from files with timm's names
fpn.py                feature pyramid network
first_boxes.py        best distinct boxes of a first stage, in fixed shapes
same_padding.py       layers with the padding SAME, in a form for graphs
input_sides.py        sizes of images that a backbone accepts
frozen_norm.py        fold frozen BatchNorm into convolutions
heads.py              unit embeddings and class logits
hd_heads.py           heads of HD-OVD: text space, relation, whole image, objectness
boxes.py              box conversion and generalised IoU
precision.py          autocast; float32 for sums
deformable_detr/      Deformable DETR with language queries
adamixer/             AdaMixer with dense first boxes
faster_rcnn/          Faster R-CNN with a feature pyramid
"""
