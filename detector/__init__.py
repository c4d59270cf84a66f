"""Train, evaluate and run detectors from cached columns; no teacher is loaded for training.

config/       options of a run, their checks, and the named recipes
students/     detector models and the contract that they share
losses/       matching and the terms of the loss
ranks/        process group of a run, and detection of dead ranks
runs/         files of a run folder, its lock and its log
data/         training samples: images, targets and teacher rows
training/     the training loop with its checks, optimiser and checkpoints
inference/    trained detectors on new images and vocabularies
drawing/      detections drawn on images
evaluation/   detections on a data set and their figures
export/       ONNX and torch graphs, folders with a model card
report/       one HTML file that explains the figures of runs
doctor.py     checks of recipes, data sets and runs before a long job
"""
