"""Fixtures of several files of end-to-end tests."""

from ctr_pipeline_tests.end_to_end.real_runs import real_run

__all__ = ["real_run"]
