"""Faults in real trainings on made-up rows: one run, what it leaves for a person, and how well faults are told."""

from ctr_pipeline.training.drilling.drilled_run import Drill, PreparedDrill, prepare_drill, run_drill
from ctr_pipeline.training.drilling.made_up_rows import make_rows
from ctr_pipeline.training.drilling.tarball import write_tarball

__all__ = ["Drill", "PreparedDrill", "make_rows", "prepare_drill", "run_drill", "write_tarball"]
