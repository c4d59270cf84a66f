"""Options of the detector, by subject, and named recipes.

config.py          the whole config; load, save, overrides
model.py           architecture of the student, matching cost, detection losses
students.py        Faster R-CNN, AdaMixer
method.py          language guidance, denoising queries, one-to-many matching
terms.py           distillation terms, one section each
data.py            sizes, augmentation, reading
train.py           schedule, optimiser, precision, checkpoints
inference.py       priors; from outputs to detections
renamed.py         option names of earlier versions
checks.py          checks of single options
options_page.py    docs/options.md, made from the recipes and options
dataclass_io.py    dataclasses <-> mappings, TOML and overrides
recipes/           named configs
"""
