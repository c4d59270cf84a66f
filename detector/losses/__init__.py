"""The training objective: the student's detection losses plus the distillation terms of the config.

objective.py    the sum, and the table of terms
terms/          one file per distillation term
"""
