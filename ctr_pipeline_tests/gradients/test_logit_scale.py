"""Nothing multiplies or bends the logits of the ranker's heads."""

import pytest
import torch

from ctr_pipeline.gradients.adapters.logit_scale import logit_scale_outcome


class Built:
    """What the contract asks of a training."""

    def __init__(self, case) -> None:
        self.model, self.layout = case.model.eval(), case.layout

    def forward(self, batch):
        return self.model(batch.numeric, batch.ids)


def outcome(case):
    built = Built(case)
    before = {name: value.clone() for name, value in built.model.state_dict().items()}
    with torch.no_grad():
        found = logit_scale_outcome(built, case.batch, built.forward(case.batch))  # type: ignore[arg-type]
    assert all(torch.equal(value, before[name]) for name, value in built.model.state_dict().items())
    return found


def test_the_logits_of_a_ranker_rise_with_their_bias(case) -> None:
    found = outcome(case)
    assert found.verdict == "passed"
    assert found.measured == pytest.approx(0, abs=1e-5)


def test_a_temperature_is_told_from_what_bends_logits(case) -> None:
    hook = case.model.head.register_forward_hook(lambda _, __, z: 3 * z)
    scaled = outcome(case)
    assert (scaled.failed, scaled.where) == (True, "click")
    assert scaled.measured == pytest.approx(3, rel=1e-4)
    assert "whatever the row" in scaled.message
    hook.remove()
    case.model.head.register_forward_hook(lambda _, __, z: torch.sigmoid(z))
    bent = outcome(case)
    assert bent.failed
    assert "bends them" in bent.message
