"""What a remedy changes of a training before it is replayed."""

from types import SimpleNamespace

import pytest
import torch

from ctr_pipeline.training.triage_remedies import treatment_of


@pytest.mark.parametrize(("momentum", "usual"), [(0.0, 0.0), (0.5, 0.5), (0.99, 0.9), (-1.0, 0.0)])
def test_usual_settings_lower_a_momentum_and_give_none(momentum: float, usual: float) -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight], lr=0.1, weight_decay=30.0)
    optimizer.param_groups[0]["momentum"] = momentum
    treatment = treatment_of("optimizer_settings")
    assert treatment is not None
    treatment.change(SimpleNamespace(optimizers=[optimizer], model=torch.nn.Linear(1, 1)))  # type: ignore[arg-type]
    (group,) = optimizer.param_groups
    assert (group["momentum"], group["weight_decay"], group["lr"]) == (usual, 1e-5, 0.1)
