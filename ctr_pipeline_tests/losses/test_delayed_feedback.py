"""Losses of open labels: where their expectation is least, their gradients, masks, and the curves that they rest on."""

import numpy as np
import pytest
import torch
from torch import Tensor

from ctr_pipeline.losses import build_loss
from ctr_pipeline.losses.binary_cross_entropy import WeightedBinaryCrossEntropy
from ctr_pipeline.losses.delay_curves import DelayBuckets, WeibullDelays
from ctr_pipeline.losses.delayed_feedback import CureModelLoss
from ctr_pipeline.losses.multi_task import TaskObjectives, settled_delays
from ctr_pipeline.losses.protocol import DelayedLoss, Delays
from ctr_pipeline.spec.losses import DelayedFeedback, DfmDiscrete, DfmWeibull, Fsiw
from ctr_pipeline.spec.objectives import Binary

HOUR, DAY = 3600.0, 86_400.0
WINDOW = 14 * DAY
SECTIONS: list[DelayedFeedback] = [DfmDiscrete(), DfmWeibull(), Fsiw()]
IDS = [section.kind for section in SECTIONS]


def drawn_delays(size: int, seed: int = 1) -> np.ndarray:
    """Weibull delays within the window."""
    draw = np.random.default_rng(seed)
    delays = 2 * DAY * draw.weibull(0.8, 3 * size)
    return delays[delays <= WINDOW][:size]


def fitted(section: DelayedFeedback, delays: np.ndarray | None = None) -> DelayedLoss:
    loss = build_loss(section)
    assert isinstance(loss, DelayedLoss)
    return loss.fit(drawn_delays(50_000) if delays is None else delays)


def open_rows(size: int, seed: int = 2) -> tuple[Tensor, Tensor, Tensor, Delays]:
    """Logits, labels and weights [B, 1] with settled, open and unseen pairs, and their ages."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(-1, 2, (size, 1)).astype(np.int8)
    elapsed = draw.uniform(0, WINDOW, (size, 1)).astype(np.float32)
    elapsed[draw.random((size, 1)) < 0.2] = np.nan
    delay = np.where(draw.random((size, 1)) < 0.5, draw.uniform(0, 1, (size, 1)) * elapsed, np.nan).astype(np.float32)
    return (
        torch.from_numpy(draw.normal(0, 2, (size, 1))),
        torch.from_numpy(labels),
        torch.from_numpy(draw.uniform(0.5, 2, (size, 1))),
        Delays(torch.from_numpy(elapsed), torch.from_numpy(delay)),
    )


@pytest.mark.parametrize("section", SECTIONS, ids=IDS)
@pytest.mark.parametrize("age", [3 * HOUR, 30 * HOUR, 6 * DAY, 13 * DAY])
@pytest.mark.parametrize("p", [0.003, 0.2, 0.7])
def test_the_true_probability_is_the_fixed_point_at_every_age(section: DelayedFeedback, age: float, p: float) -> None:
    """Over the population: p of the rows have an outcome, with delays as drawn, and are seen at one age."""
    delays = drawn_delays(50_000)
    loss = fitted(section, delays)
    # One row for each delay, and one for all without an outcome, weighted to p and 1 - p.
    size = len(delays)
    weights = torch.tensor([[p / size]] * size + [[1 - p]], dtype=torch.float64)
    observed = np.append(np.where(delays <= age, delays, np.nan), np.nan)
    ages = Delays(torch.full((size + 1, 1), age, dtype=torch.float64), torch.from_numpy(observed[:, None]))
    labels = torch.full((size + 1, 1), -1, dtype=torch.int8)
    logit = torch.logit(torch.tensor(p, dtype=torch.float64))
    gradients = []
    for shift in (-0.3, 0.0, 0.3):
        logits = torch.full((size + 1, 1), float(logit) + shift, dtype=torch.float64)
        gradients.append(float(loss.logit_gradient(logits, labels, weights, ages).sum()) / p)
    # A Weibull curve is fitted to delays that are cut off: it is off by about a hundredth.
    assert abs(gradients[1]) < (0.03 if section.kind == "dfm_weibull" else 2e-3)
    if section.kind == "fsiw" and age == 3 * HOUR:
        # Too young to count at all.
        assert gradients == [0.0, 0.0, 0.0]
    else:
        assert gradients[0] < gradients[1] < gradients[2]


@pytest.mark.parametrize("section", SECTIONS, ids=IDS)
def test_the_gradient_by_formula_is_that_of_autograd(section: DelayedFeedback) -> None:
    loss = fitted(section)
    logits, labels, weights, ages = open_rows(400)
    logits.requires_grad_()
    loss.task_sums(logits, labels, weights, ages).sum().backward()
    assert logits.grad is not None
    torch.testing.assert_close(loss.logit_gradient(logits.detach(), labels, weights, ages), logits.grad)
    unseen = (labels < 0) & ~torch.isfinite(ages.elapsed)
    assert bool(unseen.any())
    assert torch.equal(logits.grad[unseen], torch.zeros_like(logits.grad[unseen]))


@pytest.mark.parametrize("section", SECTIONS[:2], ids=IDS[:2])
def test_the_gradient_is_that_of_finite_differences(section: DelayedFeedback) -> None:
    loss = fitted(section)
    logits, labels, weights, ages = open_rows(60, seed=4)
    step = 1e-6
    high, low = (loss.task_sums(logits + sign * step, labels, weights, ages) for sign in (1, -1))
    total = loss.logit_gradient(logits, labels, weights, ages).sum()
    assert float((high - low).sum()) / (2 * step) == pytest.approx(float(total), abs=1e-6)


@pytest.mark.parametrize("section", SECTIONS, ids=IDS)
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_extreme_logits_stay_finite(section: DelayedFeedback, kind: torch.dtype) -> None:
    loss = fitted(section)
    _, labels, weights, ages = open_rows(200)
    for value in (-60.0, 0.0, 60.0):
        logits = torch.full(labels.shape, value, dtype=kind, requires_grad=True)
        sums = loss.task_sums(logits, labels, weights.to(kind), ages)
        sums.sum().backward()
        assert logits.grad is not None
        assert torch.isfinite(sums).all()
        assert torch.isfinite(logits.grad).all()
        assert torch.isfinite(loss.logit_gradient(logits.detach(), labels, weights.to(kind), ages)).all()


@pytest.mark.parametrize("section", SECTIONS, ids=IDS)
def test_without_ages_only_settled_labels_count(section: DelayedFeedback) -> None:
    loss, plain = fitted(section), WeightedBinaryCrossEntropy()
    logits, labels, weights, ages = open_rows(300)
    none = Delays(torch.full_like(ages.elapsed, float("nan")), ages.delay)
    for found in (loss.task_sums(logits, labels, weights), loss.task_sums(logits, labels, weights, none)):
        torch.testing.assert_close(found, plain.task_sums(logits, labels, weights))
    empty = loss.task_sums(logits, torch.full_like(labels, -1), weights, none)
    assert empty.tolist() == [0.0]


@pytest.mark.parametrize("section", SECTIONS, ids=IDS)
def test_too_few_settled_outcomes_leave_open_labels_out(section: DelayedFeedback) -> None:
    loss = fitted(section, drawn_delays(5))
    logits, labels, weights, ages = open_rows(300)
    found = loss.task_sums(logits, labels, weights, ages)
    torch.testing.assert_close(found, WeightedBinaryCrossEntropy().task_sums(logits, labels, weights))


def test_buckets_by_hand() -> None:
    curve = DelayBuckets(np.array([10.0] * 6 + [70.0] * 3 + [500.0]), [60.0, 120.0])
    ages = torch.tensor([0.0, 59.0, 60.0, 119.0, 120.0, 1e6], dtype=torch.float64)
    assert curve.share(ages).tolist() == [0.0, 0.0, 0.6, 0.6, 0.9, 0.9]
    known = curve.is_known(
        torch.tensor([10.0, 10.0, 70.0, 70.0, 500.0, float("nan")]), torch.tensor([59.0, 60.0, 119.0, 120.0, 9e9, 9e9])
    )
    assert known.tolist() == [False, True, False, True, False, False]


def test_a_weibull_curve_is_recovered_and_ends_with_the_window() -> None:
    draw = np.random.default_rng(3)
    curve = WeibullDelays(DAY * draw.weibull(1.4, 40_000))
    ages = torch.tensor([0.0, 0.5 * DAY, DAY, 3 * DAY, 100 * DAY], dtype=torch.float64)
    expected = 1 - np.exp(-((ages.numpy() / DAY) ** 1.4))
    np.testing.assert_allclose(curve.share(ages).numpy(), expected, atol=0.01)
    assert WeibullDelays(drawn_delays(1000)).share(torch.tensor([WINDOW])).item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("delay", [0.0, 0.5, 1.0, 3600.0, 1e7])
@pytest.mark.parametrize("others", [(), (0.0,) * 5, (1e-3,), (86_400.0,) * 3])
def test_a_weibull_curve_of_delays_that_do_not_differ_is_a_step(delay: float, others: tuple[float, ...]) -> None:
    delays = np.array([delay] * 500 + [delay + other for other in others])
    ages = torch.tensor([0.0, delay / 2, delay, 2 * delay + 1e5, 1e8], dtype=torch.float32)
    share = WeibullDelays(delays).share(ages)
    assert bool(((share >= 0) & (share < 1)).all())
    assert bool((share.diff() >= 0).all())
    assert share[-1].item() == pytest.approx(1, abs=1e-5)
    logits = torch.linspace(-60, 60, 5, requires_grad=True)
    for known in (False, True):
        loss = CureModelLoss(WeibullDelays)._open_loss(logits, torch.full((5,), known), share)
        (gradient,) = torch.autograd.grad(loss.sum(), logits)
        assert bool(torch.isfinite(gradient).all())


@pytest.mark.parametrize("section", SECTIONS, ids=IDS)
def test_open_labels_bring_back_a_rate_that_settled_ones_do_not_know(section: DelayedFeedback) -> None:
    """The rate doubled after the last settled row: settled rows say 5 %, and early outcomes alone far less than 10 %."""
    draw = np.random.default_rng(6)
    size = 40_000
    late = np.arange(size) >= size // 2
    happens, delay = draw.random(size) < np.where(late, 0.10, 0.05), draw.permutation(drawn_delays(size, 7))
    elapsed = np.where(late, draw.uniform(DAY, WINDOW, size), WINDOW + DAY)
    known = happens & (delay <= elapsed)
    labels = np.where(late, -1, known).astype(np.int8)[:, None]
    seen, ages = np.where(known, delay, np.nan).astype(np.float32)[:, None], elapsed.astype(np.float32)[:, None]
    objectives = TaskObjectives([Binary(loss=section)], settled_delays(labels, seen))
    weights = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    batch = (torch.from_numpy(labels), torch.ones((size, 1), dtype=torch.float64))
    delays, is_late = Delays(torch.from_numpy(ages), torch.from_numpy(seen)), torch.from_numpy(late)[:, None].double()
    optimizer = torch.optim.Adam([weights], lr=0.1)
    for _ in range(300):
        optimizer.zero_grad()
        (objectives.task_sums(weights[0] + weights[1] * is_late, *batch, delays).sum() / size).backward()
        optimizer.step()
    found = torch.sigmoid(torch.stack([weights[0], weights[0] + weights[1]])).tolist()
    assert found == pytest.approx([0.05, 0.10], rel=0.08)
    assert objectives.known_counts(batch[0], delays).tolist() == [size]
    assert objectives.known_counts(batch[0]).tolist() == [size // 2]
