"""The paper's tables as commands, its figures next to ours (docs/method/cckt_det.md, section 11).

table4   parts of the method: guidance, contrast, similarity    four trainings per seed, scored as five rows
table5   stronger teachers                                      one training per teacher and seed
table6   rho and L of the priors with random fill               one trained run under many priors
options  any options, and dependence on the guidance            one training per row and seed
levels   levels of HD-OVD, CCKT-Det and their hybrid            one training per row and seed
retention  AP50 against epochs, for four methods                one training per row and seed
finetune   old, new and never annotated classes after --from    one training per row and seed

All tables share one output folder. Finished runs and columns are kept: the same call resumes after a stop,
and with more seeds trains only the new runs.

    data.py        data sets, a teacher's columns, and how strong a teacher is
    finetune.py    fine-tuning on new classes: data and runs
    finetune_page.py  that table as text
    level_page.py  the table of levels as text
    level_rows.py  its rows as options
    levels.py      its columns and runs
    options.py     the table of options
    page.py        tables as JSON and Markdown
    plan.py        rows of Table 4, and what an ablation compares
    priors.py      Table 6
    retention.py   curves over epochs: trainings that are evaluated on the way
    retention_page.py  the curves as text and as a picture
    runs.py        train or resume runs, score them, and average over seeds
    tables.py      Tables 4 and 5, and the entry point `ablate`
"""

from cckt.ablation.plan import AblationPlan
from cckt.ablation.tables import ablate

__all__ = ["AblationPlan", "ablate"]
