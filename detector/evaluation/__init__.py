"""Evaluate detections: run a model on an index, score by the protocols of COCO and LVIS, compare runs.

asked.py              figures of requests of a few words at the default threshold
bootstrap.py          confidence intervals and paired comparisons by resampling images
calibrate.py          fit the calibration of scores on matched detections
coco_engines.py       precision and recall by hotcoco or pycocotools
compare_runs.py       whether two runs differ on one data set
detections.py         detections as columns; COCO results files
evaluate.py           evaluate detections, a model in memory, or a run folder
evaluation_set.py     an index with the text, the protocol and the priors that a run is evaluated with
ground_truth.py       annotated boxes of the concepts that a protocol scores
inference_loop.py     run a model over the images of an index, on one process or several
locate.py             detections with image and concept numbers; refuse ids and boxes that do not fit
match_detections.py   which detection matches which box; the best F1; what becomes of novel objects
measure.py            from detections to metrics and matches
metrics.py            the figures: AP50 base, novel and all, AP, APr, and AP per concept
protocols.py          the protocols: ov-coco, ov-lvis, coco, objects365, custom
pseudo_labels.py      a derived index with a run's confident detections as boxes
results_file.py       read a results file and check that it belongs to an index
"""
