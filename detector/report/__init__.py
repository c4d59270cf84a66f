"""Explain the figures of one or more runs in one self-contained HTML file.

write.py       assemble the page of one or more runs and write the file
gather.py      data of one run: figures, curves, errors, confusion, priors, digests
log.py         training curves, read from metrics.jsonl
errors.py      kinds of detection errors and the AP50 that each kind costs
matrix.py      confusion matrix over all concepts
confusion.py   which concepts novel objects are detected as
priors.py      quality of the priors; AP50 over a grid of rho and L
gallery.py     choice of example images and their detections
page.html      frame of the page; page.css, charts.js, gallery.js, matrix.js and page.js are put into it
"""

from cckt.detector.report.write import write_report

__all__ = ["write_report"]
