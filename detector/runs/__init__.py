"""Read and write run folders.

run_folder.py     files of a run, its facts, options and figures
weights.py        weights as safetensors
checkpoints.py    checkpoints: written whole, found by their digests, and what a kill leaves
json_fields.py    fields of a dataclass in JSON that somebody may have edited
base_text.py      text embeddings of the base concepts of a run
file_digests.py   digests of the files of a run, checked when they are read
folder_guard.py   one training at a time in a folder; refuse folders that hold other files
log.py            metrics.jsonl, TensorBoard, Weights & Biases; times of the parts of a step
"""
