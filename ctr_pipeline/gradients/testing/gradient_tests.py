"""All contracts as the tests of a class, for a module and a loss of one's own."""

from pathlib import Path

import pytest

from ctr_pipeline.gradients.contracts.clip_direction import check_clip_direction
from ctr_pipeline.gradients.contracts.finite_differences import check_finite_differences
from ctr_pipeline.gradients.contracts.gradient_reset import check_gradients_reset
from ctr_pipeline.gradients.contracts.kept_state import fixed_random, kept_state
from ctr_pipeline.gradients.contracts.loss_values import check_empty_mask, check_logit_gradient, check_loss_range
from ctr_pipeline.gradients.contracts.optimizer_coverage import check_optimizer_coverage
from ctr_pipeline.gradients.contracts.optimizer_settings import check_optimizer_settings
from ctr_pipeline.gradients.contracts.outcome import Outcome, assert_passed
from ctr_pipeline.gradients.contracts.overfitting import check_overfits_one_batch
from ctr_pipeline.gradients.contracts.padding_rows import check_padding_rows
from ctr_pipeline.gradients.contracts.parameter_types import check_parameter_types
from ctr_pipeline.gradients.contracts.sample_independence import check_cross_sample
from ctr_pipeline.gradients.contracts.training_mode import check_training_mode
from ctr_pipeline.gradients.contracts.training_setup import TrainingSetup
from ctr_pipeline.gradients.contracts.untouched_rows import check_untouched_rows
from ctr_pipeline.gradients.contracts.update_size import check_update_size
from ctr_pipeline.gradients.contracts.weight_movement import check_weights_move
from ctr_pipeline.gradients.testing.golden_losses import check_golden_losses

GOLDEN_STEPS = 5


class GradientTests:
    """Derive a class whose name begins with ``Test`` and give it the fixture ``setup``; each contract is then a test.

    A contract that the setup does not describe (no ``labels``, no ``clip``, no table) is skipped with the reason. Override
    a method to give a contract other arguments, or to leave it out.
    """

    @pytest.fixture
    def setup(self) -> TrainingSetup:
        """The model, its batch, loss and step."""
        raise NotImplementedError("override the fixture `setup`: it returns the TrainingSetup that is tested")

    def test_finite_differences(self, setup: TrainingSetup) -> None:
        """Gradients are the slopes of the loss."""
        judge(check_finite_differences(setup))

    def test_logit_gradient(self, setup: TrainingSetup) -> None:
        """The gradient at the logits follows its formula."""
        judge(check_logit_gradient(setup))

    def test_loss_range(self, setup: TrainingSetup) -> None:
        """The loss is finite far from 0."""
        judge(check_loss_range(setup))

    def test_empty_mask(self, setup: TrainingSetup) -> None:
        """Labels that are not known count for nothing."""
        judge(check_empty_mask(setup))

    def test_cross_sample(self, setup: TrainingSetup) -> None:
        """Samples do not depend on each other."""
        judge(check_cross_sample(setup))

    def test_clip_direction(self, setup: TrainingSetup) -> None:
        """Clipping leaves the direction."""
        judge(check_clip_direction(setup))

    def test_untouched_rows(self, setup: TrainingSetup) -> None:
        """Rows that are not in the batch stay."""
        judge(check_untouched_rows(setup))

    def test_optimizer_coverage(self, setup: TrainingSetup) -> None:
        """Optimizers hold the model's parameters."""
        judge(check_optimizer_coverage(setup))

    def test_optimizer_settings(self, setup: TrainingSetup) -> None:
        """Averages of the optimizers can follow the gradients."""
        judge(check_optimizer_settings(setup))

    def test_weights_move(self, setup: TrainingSetup) -> None:
        """Each weight moves."""
        judge(check_weights_move(setup))

    def test_gradients_reset(self, setup: TrainingSetup) -> None:
        """A step starts without gradients."""
        judge(check_gradients_reset(setup))

    def test_training_mode(self, setup: TrainingSetup) -> None:
        """Modules are in training mode."""
        judge(check_training_mode(setup))

    def test_update_size(self, setup: TrainingSetup) -> None:
        """Updates are small against the weights."""
        judge(check_update_size(setup))

    def test_parameter_types(self, setup: TrainingSetup) -> None:
        """Parameters are stored in at least 32 bits."""
        judge(check_parameter_types(setup))

    def test_padding_rows(self, setup: TrainingSetup) -> None:
        """Padding rows are 0 and stay so."""
        judge(check_padding_rows(setup))

    def test_overfits_one_batch(self, setup: TrainingSetup) -> None:
        """One batch is learnt by heart."""
        judge(check_overfits_one_batch(setup))

    def test_golden_losses(self, setup: TrainingSetup, request: pytest.FixtureRequest) -> None:
        """The first losses are those of an earlier version; skipped where the class has no attribute ``golden_losses``."""
        name = getattr(self, "golden_losses", None)
        if name is None:
            pytest.skip("the class has no attribute golden_losses, the name of a file beside the test")
        losses = []
        with kept_state(setup), fixed_random(setup.model):
            for _ in range(GOLDEN_STEPS):
                losses.append(setup.measured_loss())
                setup.take_step()
        update = bool(request.config.getoption("--update-golden-losses", default=False))
        judge(check_golden_losses(losses, Path(request.path).parent / name, update=update))


def judge(outcome: Outcome) -> None:
    """Passes, fails, or skips the test that calls it."""
    __tracebackhide__ = True
    if outcome.verdict == "not_measured":
        pytest.skip(outcome.message)
    assert_passed(outcome)
