"""pytest plug-in: contracts of gradients, losses and steps for any module. See docs/gradient_tests.md.

Put ``pytest_plugins = ["ctr_pipeline.gradients.testing"]`` into the root conftest.py for the option
``--update-golden-losses``; all else is imported from here. Needs torch and pytest, and nothing else of this project but
``ctr_pipeline.gradients.contracts``.
"""

import pytest

from ctr_pipeline.gradients.contracts.clip_direction import check_clip_direction
from ctr_pipeline.gradients.contracts.finite_differences import check_finite_differences
from ctr_pipeline.gradients.contracts.gradient_reset import check_accumulation, check_gradients_reset
from ctr_pipeline.gradients.contracts.kept_state import fixed_random, kept_state, state_digest
from ctr_pipeline.gradients.contracts.loss_values import check_empty_mask, check_logit_gradient, check_loss_range
from ctr_pipeline.gradients.contracts.optimizer_coverage import check_optimizer_coverage
from ctr_pipeline.gradients.contracts.optimizer_settings import check_optimizer_settings
from ctr_pipeline.gradients.contracts.outcome import ContractBroken, Outcome, assert_passed
from ctr_pipeline.gradients.contracts.overfitting import check_overfits_one_batch
from ctr_pipeline.gradients.contracts.padding_rows import check_padding_rows
from ctr_pipeline.gradients.contracts.parameter_types import check_parameter_types
from ctr_pipeline.gradients.contracts.resumption import check_resume
from ctr_pipeline.gradients.contracts.sample_independence import check_cross_sample
from ctr_pipeline.gradients.contracts.training_mode import check_training_mode
from ctr_pipeline.gradients.contracts.training_setup import TrainingSetup
from ctr_pipeline.gradients.contracts.untouched_rows import check_untouched_rows
from ctr_pipeline.gradients.contracts.update_size import check_update_size
from ctr_pipeline.gradients.contracts.weight_movement import check_weights_move
from ctr_pipeline.gradients.testing.golden_losses import check_golden_losses
from ctr_pipeline.gradients.testing.gradient_tests import GradientTests

__all__ = [
    "ContractBroken",
    "GradientTests",
    "Outcome",
    "TrainingSetup",
    "assert_passed",
    "check_accumulation",
    "check_clip_direction",
    "check_cross_sample",
    "check_empty_mask",
    "check_finite_differences",
    "check_golden_losses",
    "check_gradients_reset",
    "check_logit_gradient",
    "check_loss_range",
    "check_optimizer_coverage",
    "check_optimizer_settings",
    "check_overfits_one_batch",
    "check_padding_rows",
    "check_parameter_types",
    "check_resume",
    "check_training_mode",
    "check_untouched_rows",
    "check_update_size",
    "check_weights_move",
    "fixed_random",
    "kept_state",
    "state_digest",
]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds ``--update-golden-losses``."""
    parser.getgroup("gradients").addoption(
        "--update-golden-losses", action="store_true", help="write the files of golden losses instead of comparing them"
    )
