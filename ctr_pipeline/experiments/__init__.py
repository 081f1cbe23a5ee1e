"""What an online test would say: the value of another policy from logged traffic, and how large a test must be."""

from ctr_pipeline.experiments.off_policy import PolicyValue, RewardModel, policy_value
from ctr_pipeline.experiments.sample_size import SizeOfTest, UserTotals, size_of_test

__all__ = ["PolicyValue", "RewardModel", "SizeOfTest", "UserTotals", "policy_value", "size_of_test"]
