"""The paper's tables as commands, every figure beside the paper's (METHOD.md section 6), and one of options.

table4  what guidance, contrast and similarity are worth   a run for each of five rows and each seed
table5  what a stronger teacher is worth                   a run for each teacher and each seed
table6  what rho and L do when chance fills up to L        one trained run, asked again and again
options what options are worth, and how far the detector   a run for each row of options and each seed
        leans on its priors

All of it lies in one folder, where finished runs and columns are kept: killed anywhere, the same call goes
on, and with more seeds only the new ones are trained.
"""

from cckt.ablation.plan import Plan
from cckt.ablation.tables import ablate

__all__ = ["Plan", "ablate"]
