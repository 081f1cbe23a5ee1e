import math

import pytest
import torch

from ctr_pipeline.gradients import CAUSE_ORDER
from ctr_pipeline.gradients.adapters.inputs import input_fault
from ctr_pipeline.gradients.core.norms import gradient_norms
from ctr_pipeline.gradients.triage.diagnose import diagnose
from ctr_pipeline.gradients.triage.replay import Replay


def diagnosed(case, losses=(0.5, 0.5), norms=None):
    random = {"torch": torch.get_rng_state(), "cuda": None}
    replay = Replay(lambda: case.model(case.batch.numeric, case.batch.ids), random, torch.device("cpu"))
    return diagnose(case.model, case.batch, case.layout, 17, losses, norms, replay)


def test_a_healthy_batch_has_no_fault(case) -> None:
    case.batch.numeric[3, 0] = math.nan
    assert input_fault(case.batch, case.layout, 0) is None


@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_infinite_number_names_feature_and_row(case, value: float) -> None:
    case.batch.numeric[4, 1] = value
    cause = diagnosed(case)
    assert (cause.kind, cause.tensor, cause.feature, cause.row, cause.step) == ("input", "numeric", "rating", 104, 17)
    assert "rating" in cause.message
    assert "104" in cause.message


@pytest.mark.parametrize("row", [-1, 8])
def test_row_outside_the_table(case, row: int) -> None:
    case.batch.ids[2, 1] = row
    cause = diagnosed(case)
    assert (cause.kind, cause.tensor, cause.feature, cause.row) == ("input", "ids", "query", 102)


@pytest.mark.parametrize("weight", [math.nan, math.inf, -1.0])
def test_bad_weight(case, weight: float) -> None:
    case.batch.weights[5, 1] = weight
    cause = diagnosed(case)
    assert (cause.kind, cause.tensor, cause.row) == ("input", "weights", 105)
    assert "cart" in cause.message


def test_dense_parameter(case) -> None:
    with torch.no_grad():
        case.model.tower[0].linear.weight[1, 2] = math.nan
    cause = diagnosed(case)
    assert (cause.kind, cause.tensor, cause.feature) == ("parameter", "tower.0.linear.weight", None)


def test_embedding_row_names_feature_and_vocabulary_row(case) -> None:
    with torch.no_grad():
        # Rows of `query` lie behind the ten of `ad`.
        case.model.get_parameter("embeddings.tables.width_4.table.weight")[10 + 5, 0] = math.inf
    cause = diagnosed(case)
    assert (cause.kind, cause.feature, cause.row) == ("parameter", "query", 5)


def test_activation_names_the_first_module(case) -> None:
    with torch.no_grad():
        case.model.tower[0].linear.weight.fill_(3e38)
    cause = diagnosed(case, losses=(math.nan, math.nan))
    assert (cause.kind, cause.tensor) == ("activation", "tower.0.linear")
    assert cause.row in range(100, 112)


def test_loss_with_finite_logits(case) -> None:
    cause = diagnosed(case, losses=(0.5, math.nan))
    assert (cause.kind, cause.tensor) == ("loss", "loss_cart")


def test_dense_gradient(case) -> None:
    case.model.tower[1].linear.weight.register_hook(lambda gradient: gradient * math.inf)
    case.backward()
    cause = diagnosed(case, norms=gradient_norms(list(case.model.named_parameters())))
    assert (cause.kind, cause.tensor) == ("gradient", "tower.1.linear.weight")


def test_of_several_bad_gradients_the_first_in_the_backward_pass_is_named(case) -> None:
    # Backward runs from the loss to the inputs: through the second hidden layer before the first.
    case.backward()
    case.model.tower[0].linear.weight.grad[0, 0] = math.inf
    case.model.tower[1].linear.weight.grad[1, 2] = math.inf
    cause = diagnosed(case, norms=gradient_norms(list(case.model.named_parameters())))
    assert (cause.kind, cause.tensor) == ("gradient", "tower.1.linear.weight")


def test_embedding_gradient_names_feature_and_vocabulary_row(case) -> None:
    case.backward()
    table = case.model.get_parameter("embeddings.tables.width_4.table.weight")
    norms = gradient_norms(list(case.model.named_parameters()))
    touched = table.grad.indices()[0].tolist()
    at = next(i for i, row in enumerate(touched) if row >= 10)
    table.grad._values()[at, 1] = math.nan
    cause = diagnosed(case, norms=norms)
    assert (cause.kind, cause.feature, cause.row) == ("gradient", "query", touched[at] - 10)


def test_finite_gradients_whose_norm_overflows(case) -> None:
    case.backward()
    case.model.head.weight.grad.fill_(3e38)
    norms = gradient_norms(list(case.model.named_parameters()))
    assert not torch.isfinite(norms.total)
    cause = diagnosed(case, norms=norms)
    assert (cause.kind, cause.tensor) == ("overflow", "head.weight")


def test_input_comes_before_everything_that_follows_from_it(case) -> None:
    case.batch.numeric[4, 1] = math.inf
    with torch.no_grad():
        case.model.head.weight.fill_(math.nan)
    assert diagnosed(case, losses=(math.nan, math.nan)).kind == CAUSE_ORDER[0] == "input"


def test_the_generator_is_left_as_it_was(case) -> None:
    state = torch.get_rng_state()
    diagnosed(case, losses=(math.nan, math.nan))
    assert torch.equal(torch.get_rng_state(), state)
