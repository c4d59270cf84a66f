"""Draw detections on images, with Pillow.

colours.py        a colour per concept; contrast of text on it
draw.py           boxes and labels on one image
earlier_files.py  files that earlier commands left in a folder of results
gallery.py        images of a data set with the novel concepts that a detector found
judge.py          detections next to the annotations: right, wrong, missed
legend.py         what outlines and symbols mean
outlines.py       anti-aliased outlines, plain or dashed
place_labels.py   positions of labels: near their box, inside the image, without overlap
picture_files.py  picture files with our mark; no picture of somebody else is replaced
predict_files.py  predict on photo and video files, and draw the detections
products.py       pictures, frames, crops and annotated videos of predicted images
sheet.py          several images on one page
text.py           fonts; text shortened to a width
"""
