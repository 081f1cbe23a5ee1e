"""A simulated ads marketplace with known truth: the embedded default source of logs."""

from ctr_pipeline.simulator.days import day_files, log_paths, truth_file, write_day, write_days
from ctr_pipeline.simulator.truth import truth_report
from ctr_pipeline.simulator.world import SimulatorError

__all__ = ["SimulatorError", "day_files", "log_paths", "truth_file", "truth_report", "write_day", "write_days"]
