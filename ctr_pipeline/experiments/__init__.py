"""Online tests: what another policy would be worth, how large a test must be, and what it says."""

from ctr_pipeline.experiments.design import CONTROL, TREATMENT, Canary, Design
from ctr_pipeline.experiments.gap import Gap, ReplayedRows, offline_online_gap, population_factors
from ctr_pipeline.experiments.off_policy import PolicyValue, RewardModel, policy_value
from ctr_pipeline.experiments.reading import Decision, Reading, read_test
from ctr_pipeline.experiments.sample_ratio import sample_ratio_p_value
from ctr_pipeline.experiments.sample_size import (
    Rule,
    SizeOfTest,
    UserTotals,
    clustered_variance,
    deviations,
    size_of_rate,
    size_of_test,
)

__all__ = [
    "CONTROL",
    "TREATMENT",
    "Canary",
    "Decision",
    "Design",
    "Gap",
    "PolicyValue",
    "Reading",
    "ReplayedRows",
    "RewardModel",
    "Rule",
    "SizeOfTest",
    "UserTotals",
    "clustered_variance",
    "deviations",
    "offline_online_gap",
    "policy_value",
    "population_factors",
    "read_test",
    "sample_ratio_p_value",
    "size_of_rate",
    "size_of_test",
]
