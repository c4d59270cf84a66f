"""Students: detectors that learn from boxes and from a teacher's embeddings, and the parts that they share.

contract.py           base class `Student`; its inputs, output, pairs and losses
build.py              the table of students
targets.py            targets of images, padded for a batch
matching.py           matching costs and Hungarian assignment
detection_loss.py     class and box losses of matched regions
first_boxes.py        best distinct boxes of a first stage, in fixed shapes
heads.py              unit embeddings and class logits
hd_heads.py           heads of HD-OVD: text space, relation, whole image, objectness
boxes.py              box conversion and generalised IoU
precision.py          autocast; float32 for sums
backbones/            feature maps of timm models, their weights, padding and norms
deformable_detr/      Deformable DETR with language queries
adamixer/             AdaMixer with dense first boxes
faster_rcnn/          Faster R-CNN with a feature pyramid
"""
