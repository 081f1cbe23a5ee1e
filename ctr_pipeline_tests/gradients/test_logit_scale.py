"""Nothing multiplies or bends the logits of the ranker's heads."""

from dataclasses import replace

import pytest
import torch

from ctr_pipeline.gradients.adapters.logit_scale import logit_scale_outcome
from ctr_pipeline.ranker import build_ranker
from ctr_pipeline.spec.model import Model


class Built:
    """What the contract asks of a training."""

    def __init__(self, case) -> None:
        self.model, self.layout = case.model.eval(), case.layout

    def forward(self, batch):
        return self.model(batch.numeric, batch.ids, batch.position)


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


@pytest.fixture
def examined(case):
    """A model that multiplies probabilities by an examination, of rows at several positions."""
    layout = replace(case.layout, positions=(0.5, 0.3, 0.2))
    section = Model.model_validate({"embedding_dim": 4, "hidden": [8], "position": {"kind": "examination"}})
    model = build_ranker(layout, section, 1)
    # Where outcomes are frequent, a probability that is multiplied is far from odds that are.
    model.start_from_rates([0.4, 0.1])
    position = torch.arange(len(case.batch.rows)).remainder(4).to(torch.int16)
    return replace(case, layout=layout, model=model, batch=replace(case.batch, position=position))


def test_an_examination_bends_no_logit(examined) -> None:
    assert outcome(examined).verdict == "passed"


@pytest.mark.parametrize(("change", "message"), [(lambda z: 3 * z, "whatever the row"), (torch.tanh, "bends them")])
def test_what_changes_logits_before_an_examination_is_seen(examined, change, message: str) -> None:
    examined.model.head.register_forward_hook(lambda _, __, z: change(z))
    found = outcome(examined)
    assert found.failed
    assert message in found.message
