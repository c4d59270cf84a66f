"""Load a trained detector and predict on images, with any vocabulary.

calibration.py       scores as probabilities of being correct, and their threshold
confirm.py           scores of the best boxes by the teacher, from their crops
fusion.py            fusion of two text scores, for base and novel concepts (HD-OVD)
inference_model.py   a trained model in eval mode: load, encode, decode
input_set.py         photos and concepts that a user names, or those of a data set
journal.py           predictions of finished files, so that a stopped command continues
label_files.py       predictions as a COCO data set, YOLO, Pascal VOC, CSV
own_evaluation.py    score threshold and prior temperature from the run's own evaluation
photo_sources.py     input images: files, folders, patterns, stdin, video frames
postprocess.py       model output to scores, scores to detections, non-maximum suppression
predict.py           `Predictor`: images and a vocabulary in, predictions out
prediction.py        the detections of one image
region_proposals.py  class-agnostic regions of a run, for cckt cache proposals
rivals.py            the base concepts that compete with the words of a user
result_folders.py    no result of somebody else or of another run is replaced
stages/              from an image to a prediction: open, one batch, windows, the scale of scores
vocabulary.py        splits and text embeddings of a vocabulary; the `Guide` protocol
write_results.py     predictions into a folder, in a format of `cckt predict`
"""
