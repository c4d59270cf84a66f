"""The stages of `Predictor.stream`, from an image to a prediction.

open_photo.py     an image from a path or a Pillow image, or the reason why it is unreadable
predict_batch.py  one batch of images: forward pass, scores, confirmation, detections
score_scale.py    the lowest score and the calibration of a run; notes on what it lacks
windows.py        large photos as overlapping windows, and their detections merged
"""
