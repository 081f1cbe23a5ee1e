"""Each detector's limits, and its state in a checkpoint."""

import math
from dataclasses import replace

import pytest
import torch

from ctr_pipeline.gradients import (
    Finding,
    LossView,
    Probe,
    StepRecord,
    StepView,
    Update,
    register_detector,
    registered_detectors,
)
from ctr_pipeline.gradients.adapters.batch import content_hash
from ctr_pipeline.gradients.core.activations import Activation
from ctr_pipeline.gradients.core.monitor import GradientMonitor
from ctr_pipeline.gradients.detectors import DeadUnits, LossGradient, NormRatio, StaleBatch, UpdateRatio
from ctr_pipeline.losses.binary_cross_entropy import WeightedBinaryCrossEntropy
from ctr_pipeline.ranker import build_ranker
from ctr_pipeline.spec.model import Model


def observe(
    detector,
    *,
    stopped: bool = False,
    clipped: bool = False,
    ratio: float = 1.0,
    norm: float = 1.0,
    rows: int = 4096,
    step: int = 0,
    **probed,
) -> None:
    record = StepRecord(
        step=step, epoch=0, loss=0.5, task_losses={"click": 0.5}, grad_norm=norm, norm_ratio=ratio, clipped=clipped,
        skipped=False, learning_rate=1e-3, rows=rows,
    )  # fmt: skip
    parts = {"loss": None, "activations": (), "updates": (), **probed}
    detector.observe(
        StepView(
            record=record,
            stopped=stopped,
            names=(),
            norms=(),
            probe=Probe(**parts),
            read=lambda values, receive: receive(values.flatten().tolist()),
            note=lambda *_: None,
        )
    )


def loss_view(*, factor: float = 1.0, formula=None) -> LossView:
    """A step's loss, whose gradient is ``factor`` times the right one."""
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn((32, 2), generator=generator, requires_grad=True)
    labels = torch.randint(-1, 2, (32, 2), generator=generator).to(torch.int8)
    weights = torch.rand((32, 2), generator=generator) + 0.5
    counts, loss_weights = (labels >= 0).sum(dim=0), torch.tensor([1.0, 3.0])
    loss = WeightedBinaryCrossEntropy()
    (gradient,) = torch.autograd.grad((loss.task_sums(logits, labels, weights) / counts * loss_weights).sum(), logits)
    return LossView(
        logits=logits.detach(), labels=labels, weights=weights, gradient=gradient * factor, counts=counts,
        loss_weights=loss_weights, formula=formula or loss,
    )  # fmt: skip


class WithoutFormula:
    def logit_gradient(self, *_):
        return None


class NotANumber:
    def logit_gradient(self, logits, *_):
        return torch.full_like(logits, math.nan)


def moved(by: float) -> dict:
    return {"updates": [Update("a", torch.ones((2, 2)), torch.ones((2, 2)) + by)]}


def shares(*dead: float) -> dict:
    """Activations of 100 units, of which these shares are dead."""
    slopes = [(torch.arange(100) >= share * 100).float().expand(3, 100) for share in dead]
    return {"activations": [Activation(f"layer{n}", slope) for n, slope in enumerate(slopes)]}


@pytest.mark.parametrize(
    ("name", "step", "severity"),
    [
        ("nonfinite", {}, "ok"),
        ("nonfinite", {"stopped": True}, "error"),
        ("norm_ratio", {"ratio": 4.9}, "ok"),
        ("norm_ratio", {"ratio": 5.1}, "warn"),
        ("norm_ratio", {"ratio": 9.9}, "warn"),
        ("norm_ratio", {"ratio": 10.1}, "error"),
        ("norm_ratio", {"ratio": math.nan}, "error"),
        ("norm_ratio", {"norm": math.nan, "ratio": None}, "error"),
        # The noise of a mean over 64 rows is four times that of one over 1024.
        ("norm_ratio", {"ratio": 19.9, "rows": 64}, "ok"),
        ("norm_ratio", {"ratio": 39.9, "rows": 64}, "warn"),
        ("norm_ratio", {"ratio": 40.1, "rows": 64}, "error"),
        ("update_ratio", moved(0.49), "ok"),
        ("update_ratio", moved(0.51), "warn"),
        ("update_ratio", moved(9.9), "warn"),
        ("update_ratio", moved(10.1), "error"),
        ("update_ratio", moved(math.nan), "error"),
        ("dead_units", shares(0.1, 0.5), "ok"),
        ("dead_units", shares(0.51, 0.1), "warn"),
        ("dead_units", shares(0.51, 1.0), "error"),
        ("dead_units", {}, "warn"),
        ("clipped_steps", {"clipped": False}, "ok"),
        ("clipped_steps", {"clipped": True}, "warn"),
        ("loss_gradient", {"loss": loss_view()}, "ok"),
        ("loss_gradient", {"loss": loss_view(factor=1.0009)}, "ok"),
        ("loss_gradient", {"loss": loss_view(factor=1.0012)}, "error"),
        ("loss_gradient", {"loss": loss_view(factor=0.9988)}, "error"),
        ("loss_gradient", {"loss": loss_view(formula=NotANumber())}, "error"),
        ("loss_gradient", {"loss": loss_view(formula=WithoutFormula())}, "ok"),
        ("loss_gradient", {}, "warn"),
    ],
)
def test_each_limit(name: str, step: dict, severity: str) -> None:
    made = next(detector for detector in registered_detectors() if detector.name == name)
    detector, again = made(), made()
    observe(detector, **step)
    finding = detector.finding()
    assert finding.severity == severity, finding
    again.load_state_dict(detector.state_dict())
    # As texts: NaN is not equal to itself.
    assert str(again.finding()) == str(finding)
    assert str(again.state_dict()) == str(detector.state_dict())


def test_half_of_the_steps_may_be_clipped() -> None:
    made = next(detector for detector in registered_detectors() if detector.name == "clipped_steps")
    detector = made()
    for clipped in (True, False):
        observe(detector, clipped=clipped)
    assert detector.finding().severity == "ok"
    assert detector.finding().numbers == {"clipped_share": 0.5}


def test_the_largest_of_all_steps_counts() -> None:
    norm, update = NormRatio(), UpdateRatio()
    for ratio, by in ((1.0, 0.1), (7.0, 0.6), (2.0, 0.2)):
        observe(norm, ratio=ratio)
        observe(update, **moved(by))
    assert norm.finding().numbers["max_norm_ratio"] == 7.0
    assert update.finding().numbers["max_update_ratio"] == pytest.approx(0.6)


def test_a_loss_gradient_that_could_not_be_checked_says_so() -> None:
    without, nothing = LossGradient(), LossGradient()
    observe(without, loss=loss_view(formula=WithoutFormula()))
    assert "gives no analytic gradient" in without.finding().message
    observe(nothing)
    assert nothing.finding().message.startswith("not checked")


def test_an_earlier_error_of_the_loss_gradient_stays() -> None:
    detector = LossGradient()
    observe(detector, loss=loss_view(factor=2.0))
    observe(detector, loss=loss_view())
    assert detector.finding().severity == "error"
    assert detector.finding().numbers["loss_gradient_error"] == pytest.approx(1.0, rel=1e-3)


def forward(monitor: GradientMonitor, case, step: int, model=None) -> Finding:
    monitor.begin(step)
    with monitor.forward():
        (model or case.model)(case.batch.numeric, case.batch.ids)
    record = StepRecord(
        step=step, epoch=0, loss=0.5, task_losses={}, grad_norm=1.0, norm_ratio=None, clipped=False, skipped=False,
        learning_rate=1e-3, rows=12,
    )  # fmt: skip
    monitor.after_update(record, [], [], None)
    return monitor.report().finding("dead_units")


def test_dead_units_are_those_dead_on_all_rows(case) -> None:
    first = case.model.tower[0].linear
    with torch.no_grad():
        # Of eight units two never pass a gradient, three always do, and three for some rows only.
        first.weight[:5] = 0.0
        first.bias[:] = torch.tensor([-1.0, -1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0])
    monitor = GradientMonitor(case.model, 2, [DeadUnits()])
    inputs = case.model.encode(case.batch.numeric, case.batch.ids)
    mixed = first(inputs.numbers, inputs.embedded)[:, 5:] > 0
    assert bool((mixed.any(dim=0) & ~mixed.all(dim=0)).all())
    for step in (0, 1):
        finding = forward(monitor, case, step)
    assert set(finding.numbers["dead_unit_share"]) == {"tower.0.activation", "tower.1.activation"}
    assert finding.numbers["dead_unit_share"]["tower.0.activation"] == 2 / 8
    assert {row[0] for row in monitor.rows} == {0}


def test_dead_units_of_any_activation_are_counted(case) -> None:
    case.model.tower[0].activation = torch.nn.GELU()
    with torch.no_grad():
        case.model.tower[0].linear.weight.zero_()
        case.model.tower[0].linear.bias.fill_(-20.0)
    finding = forward(GradientMonitor(case.model, 1, [DeadUnits()]), case, 0)
    assert finding.severity == "error"
    assert "100.0% of the units of tower.0.activation" in finding.message


def test_an_ablated_tower_is_not_reported_as_healthy(case) -> None:
    model = build_ranker(case.layout, Model(embedding_dim=4, hidden=[]), 1)
    finding = forward(GradientMonitor(model, 1, [DeadUnits()]), case, 0, model)
    assert finding.severity == "warn"
    assert "not measured" in finding.message


def test_a_name_belongs_to_one_detector() -> None:
    class Impostor(DeadUnits):
        pass

    with pytest.raises(ValueError, match="dead_units"):
        register_detector(Impostor)
    register_detector(DeadUnits)  # its module was loaded again
    assert len({detector.name for detector in registered_detectors()}) == len(registered_detectors())


def test_a_batch_that_comes_again_is_found(case) -> None:
    def run(hashes: list[int | None], rows: int = 256) -> Finding:
        monitor = GradientMonitor(case.model, 10**6, [StaleBatch()])
        for step, content in enumerate(hashes):
            monitor.begin(step)
            record = StepRecord(
                step=step, epoch=0, loss=0.5, task_losses={}, grad_norm=1.0, norm_ratio=None, clipped=False, skipped=False,
                learning_rate=1e-3, rows=rows, batch_hash=content,
            )  # fmt: skip
            monitor.after_update(record, [], [], None)
        return monitor.report().finding("stale_batch")

    assert run([*range(50), *range(50)]).severity == "ok", "the next epoch"
    one = run([*range(20), 18, *range(20, 80)])
    assert (one.severity, one.step) == ("warn", 20)
    assert run([*range(20), 19, 19, *range(20, 80)]).severity == "error"
    assert run([5] * 20, rows=4).severity == "ok", "a few rows may be equal"
    assert run([None] * 20).severity == "ok"


def test_equal_content_gives_equal_hashes(case) -> None:
    assert content_hash(case.batch) == content_hash(replace(case.batch, rows=case.batch.rows + 7))
    turned = case.batch.each(lambda tensor: tensor.flip(0))
    changed = replace(case.batch, labels=1 - case.batch.labels)
    assert len({content_hash(batch) for batch in (case.batch, turned, changed)}) == 3
