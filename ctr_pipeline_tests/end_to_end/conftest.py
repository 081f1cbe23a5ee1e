"""Fixtures of several files of end-to-end tests."""

from ctr_pipeline_tests.end_to_end.list_runs import list_run
from ctr_pipeline_tests.end_to_end.real_runs import real_run

__all__ = ["list_run", "real_run"]
