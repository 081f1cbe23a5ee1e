"""Rules of stopping: each of them, in their order, on readings that are made up."""

from dataclasses import replace
from datetime import date

import pytest

from ctr_pipeline.evaluation.metrics import EvaluationError, Interval
from ctr_pipeline.experiments.declared_plan import Looks, Plan, Progress, Term, Unit
from ctr_pipeline.experiments.design import Design
from ctr_pipeline.experiments.reading import Decision, Reading
from ctr_pipeline.experiments.sample_size import Rule
from ctr_pipeline.experiments.stopping_rules import Advice, Verdict, advice

PLAN = Plan(
    design=Design(name="one"), terms=(Term("click"),), unit=Unit.IMPRESSION, rule=Rule(relative=0.1, maturity_days=1.5),
    looks=Looks.ANY, first=date(2026, 1, 1), rate=0.1,
    users=1000, before_days=14,
)  # fmt: skip


def reading(low: float, high: float, information: float = 0.5, ratio: float = 0.5, margin: float = 0.5) -> Reading:
    """A reading whose confidence sequence is [low, high], about a control of rate 0.1; a single look has ``margin`` of its width."""
    value = (low + high) / 2
    half = margin * (high - low) / 2
    return Reading(
        treatment=0.1 + value, control=0.1, difference=Interval(value, value - half, value + half),
        always=Interval(value, low, high), relative=Interval(value * 10, low * 10, high * 10), explained=0.1,
        information=information, users=(500, 500), ratio_p_value=ratio, decision=Decision.GO_ON, alpha=0.05,
    )  # fmt: skip


def said(found: Reading, plan: Plan = PLAN, days: int = 10) -> Advice:
    return advice(found, plan, Progress(date(2026, 1, 10), days))


def test_a_sequence_beside_zero_decides_at_any_time() -> None:
    assert said(reading(0.001, 0.02)).verdict is Verdict.SHIP
    assert said(reading(-0.02, -0.001)).verdict is Verdict.STOP
    # Where a fall is wanted, a fall is better.
    fall = replace(PLAN, rule=replace(PLAN.rule, relative=-0.1))
    assert said(reading(-0.02, -0.001), fall).verdict is Verdict.SHIP
    assert said(reading(0.001, 0.02), fall).verdict is Verdict.STOP


def test_uneven_arms_stop_before_all_else() -> None:
    found = said(reading(0.001, 0.02, ratio=1e-4))
    assert found.verdict is Verdict.STOP
    assert found.reason.startswith("users were not assigned as declared")


def test_undecided_goes_on_until_the_planned_precision() -> None:
    found = said(reading(-0.02, 0.03, information=0.25))
    # A quarter of the information after 10 days: 30 more, and 1.5 days until outcomes are settled.
    assert (found.verdict, found.until) == (Verdict.GO_ON, date(2026, 2, 11))
    over = said(reading(-0.02, 0.03, information=1.0))
    assert over.verdict is Verdict.STOP
    assert "no difference was shown" in over.reason
    assert said(reading(-0.02, 0.03, information=1e-9)).until is None


def test_a_difference_that_is_excluded_stops() -> None:
    found = said(reading(-0.005, 0.0099))
    assert found.verdict is Verdict.STOP
    assert "+10.0%, which was planned for, is excluded" in found.reason
    assert said(reading(-0.005, 0.0101)).verdict is Verdict.GO_ON


def test_a_single_look_decides_at_the_end_alone_and_by_its_own_interval() -> None:
    plan = replace(PLAN, looks=Looks.ONE)
    assert said(reading(0.001, 0.02), plan).verdict is Verdict.GO_ON
    # The sequence holds 0, the interval of a single look does not.
    found = reading(-0.002, 0.02, information=1.0)
    assert said(found, plan).verdict is Verdict.SHIP
    assert said(found).verdict is Verdict.STOP


def test_the_planned_error_is_that_of_the_looks_and_a_plan_is_read_again() -> None:
    assert PLAN.planned_error(0.7) == pytest.approx(0.01 / PLAN.rule.sequential_quantiles)
    one = replace(PLAN, looks=Looks.ONE)
    assert one.planned_error(0.7) == pytest.approx(0.01 / 2.8016, rel=1e-4)
    by_user = replace(PLAN, rate=None)
    assert by_user.planned_error(0.2) == pytest.approx(2 * PLAN.planned_error(0.2))
    assert Plan.from_json(by_user.to_json()) == by_user
    assert Plan.from_json(one.to_json()) == one
    with pytest.raises(EvaluationError, match="it is no plan of an experiment"):
        Plan.from_json({})
