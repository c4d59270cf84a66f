"""Why a run's figures are what they are: one HTML file that needs nothing else."""

from cckt.detector.report.write import write_report

__all__ = ["write_report"]
