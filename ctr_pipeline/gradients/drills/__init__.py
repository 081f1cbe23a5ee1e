"""Faults as data: each is a name, a family, and what it does to a built training of the ranker."""

from ctr_pipeline.gradients.drills import (  # noqa: F401 - registers their faults
    incident,
    joining_faults,
    layer_mistakes,
    log_mistakes,
    loop_mistakes,
    objective_mistakes,
    outcome_mistakes,
    reading_faults,
    refactoring_mistakes,
    row_faults,
    step_faults,
    update_faults,
    value_mistakes,
    weight_faults,
)
from ctr_pipeline.gradients.drills.fault import Fault, fault_named, registered_faults

__all__ = ["Fault", "fault_named", "registered_faults"]
