"""`cckt quickstart`: the whole pipeline on shapeworld, by the public functions of the rooms.

Files:
    plan.py      sizes and recipes of a quickstart: QUICK and FULL
    pipeline.py  render, cache, train, name regions, train on, evaluate and draw
    stages.py    a folder's plan and seconds, and stages that continue where they were stopped
"""

from cckt.quickstart.pipeline import quickstart as quickstart
from cckt.quickstart.plan import FULL as FULL
from cckt.quickstart.plan import QUICK as QUICK
from cckt.quickstart.plan import QuickstartPlan as QuickstartPlan
