"""Online tests: what another policy would be worth, how large a test must be, and what it says."""

from ctr_pipeline.experiments.off_policy import PolicyValue, RewardModel, policy_value
from ctr_pipeline.experiments.reading import Decision, Reading, read_test
from ctr_pipeline.experiments.sample_ratio import sample_ratio_p_value
from ctr_pipeline.experiments.sample_size import SizeOfTest, UserTotals, size_of_test

__all__ = [
    "Decision",
    "PolicyValue",
    "Reading",
    "RewardModel",
    "SizeOfTest",
    "UserTotals",
    "policy_value",
    "read_test",
    "sample_ratio_p_value",
    "size_of_test",
]
