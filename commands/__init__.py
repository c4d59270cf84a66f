"""Commands of `cckt`: each parses its options, calls one library function and shows the result.

One file per command or group; `cli.py` assembles them. No command imports another one.

    ablate.py          cckt ablate: the paper's tables on any data
    console.py         progress, tables, figures and errors on the terminal; nothing else prints
    data.py            cckt data index, shapeworld: make a data set
    doctor.py          cckt doctor: check the installation, the data and a run
    eval.py            cckt eval: score a run or a file of detections
    export.py          cckt export: ONNX or torch graph, or a folder with a model card
    options.py         option types and defaults that several commands share
    predict.py         cckt predict: detect named concepts in photos and videos
    prior_report.py    the tables of prior quality, for cache priors and eval
    pseudo.py          cckt pseudo: a data set extended by a run's confident detections
    quickstart.py      cckt quickstart: the whole pipeline on shapeworld
    report.py          cckt report: one HTML file about one or several runs
    train.py           cckt train: start or resume a run

    cache/             cckt cache: make columns, work on existing ones, tables of other programs
    engines/           options that choose who does the work, and work on a Ray cluster
"""
