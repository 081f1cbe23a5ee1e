"""`ctr experiment read`: what an experiment says so far, and whether it ends."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import numpy as np
import polars as pl
from scipy import special

from ctr_pipeline.commands.experiment_rows import (
    ExperimentError,
    SettledRows,
    settled_rows,
    totals_by_user,
    user_totals,
    with_past,
)
from ctr_pipeline.deployment.deployment import Deployment
from ctr_pipeline.evaluation.metrics import EvaluationError
from ctr_pipeline.evaluation.slices import FALSE_DISCOVERY_RATE, benjamini_hochberg
from ctr_pipeline.experiments.declared_plan import Plan, Progress
from ctr_pipeline.experiments.design import CONTROL, TREATMENT, Design
from ctr_pipeline.experiments.reading import Reading, read_test
from ctr_pipeline.experiments.stopping_rules import advice

FORMAT = 1

ARM = "arm"
"""Column of `impressions` that `impression.arm` fills."""

SLICE_USERS = 100
"""Users of each arm below which a slice is not read."""


@dataclass(frozen=True, slots=True)
class ArmColumn:
    """A column of `impressions` that says the arm, and its values."""

    name: str
    control: Sequence[str]
    treatment: Sequence[str]


def read_experiment(
    deployment: Deployment,
    plan: Plan,
    *,
    first: date | None = None,
    last: date | None = None,
    column: ArmColumn | None = None,
    by_hash: bool = False,
    slices: Sequence[str] = (),
) -> dict[str, Any]:
    """Reads an experiment from a data root.

    Rows that are not settled are left out, of both arms alike. Users who were in both arms are left out, and counted.

    Args:
        deployment: The data root.
        plan: What was declared.
        first: First day; that of the plan by default.
        last: Last day; the last one of the log by default.
        column: What says the arm; by default the column that `impression.arm` fills, where the spec has it.
        by_hash: Take the arms from the hash of the users, whatever the log says.
        slices: Columns by whose values the effect is told too.

    Returns:
        ``arms`` with their totals, the ``reading`` (None where there is none yet, with the reason), ``advice``, ``maturity``,
        ``contamination``, and ``slices``.

    Raises:
        ExperimentError: there is no first day, no arm, or a column is not there.
        EvaluationError: the rows have not two arms of users, or the control has no outcome.
    """
    begin = first or plan.first
    if begin is None:
        raise ExperimentError("the plan has no first day: name it with --from")
    log_column = ArmColumn(ARM, [CONTROL], [TREATMENT]) if deployment.spec.impression.arm is not None else None
    chosen = None if by_hash else column or log_column
    columns = [*([chosen.name] if chosen else []), *slices]
    rows = settled_rows(deployment, plan.terms, begin, last or date.max - timedelta(days=1), columns)
    marked = _with_arms(rows.frame, plan.design, chosen)
    both = marked.group_by("user").agg(pl.col("is_treated").n_unique().alias("arms")).filter(pl.col("arms") > 1)
    own = marked.join(both.select("user"), on="user", how="anti")
    if not own.height:
        raise ExperimentError(
            f"no settled impression from {begin} on is of a user in one arm: "
            + (
                f"look at the values of column `{chosen.name}`"
                if chosen
                else "look at the name and share of the design"
            )
        )
    totals = _totals(deployment, plan, own, begin)
    found: dict[str, Any] = {
        "format": FORMAT,
        "experiment": plan.design.name,
        "plan": plan.to_json(),
        "arms_from": chosen.name if chosen else "hash of the user",
        "first": begin.isoformat(),
        "arms": {name: _arm(own, totals, treated) for name, treated in ((TREATMENT, True), (CONTROL, False))},
        "contamination": {
            "users": both.height,
            "share": both.height / marked["user"].n_unique(),
            "impressions": marked.height - own.height,
        },
        "maturity": _maturity(rows, marked),
    }
    reading = _read(totals, plan)
    progress = Progress(rows.settled, (rows.settled - begin).days + 1 if rows.settled else 0)
    found["reading"] = reading.to_json()
    found["advice"] = advice(reading, plan, progress).to_json()
    found["slices"] = [one for name in slices for one in _slices(own, plan, name)]
    _mark(found["slices"])
    return found


def _with_arms(frame: pl.DataFrame, design: Design, column: ArmColumn | None) -> pl.DataFrame:
    """The rows that are in an arm, with the column is_treated."""
    if column is None:
        users = frame["user"].unique().to_list()
        arms = pl.DataFrame(
            {"user": users, "_arm": [design.arm_of(user) for user in users]}, schema_overrides={"_arm": pl.String}
        )
        marked = frame.join(arms, on="user", how="left")
        return (
            marked.filter(pl.col("_arm").is_not_null())
            .with_columns(is_treated=pl.col("_arm") == TREATMENT)
            .drop("_arm")
        )
    text = pl.col(column.name).cast(pl.String)
    treated, control = text.is_in(list(column.treatment)), text.is_in(list(column.control))
    rows = frame.filter((treated | control).fill_null(False)).with_columns(is_treated=treated)
    canary = [user for user in rows["user"].unique().to_list() if design.in_canary(user)] if design.canaries else []
    return rows.filter(~pl.col("user").is_in(canary)) if canary else rows


def _totals(deployment: Deployment, plan: Plan, own: pl.DataFrame, begin: date) -> pl.DataFrame:
    """What each user did, whether it was treated, and what it did before, where the log has those days."""
    arms = own.group_by("user").agg(pl.col("is_treated").first())
    totals = totals_by_user(own, plan.unit).join(arms, on="user", how="left", maintain_order="left")
    before = max(deployment.first_day, begin - timedelta(days=plan.before_days))
    if before < begin and plan.before_days:
        try:
            past = settled_rows(deployment, plan.terms, before, begin - timedelta(days=1))
        except ExperimentError:
            return totals
        if past.frame.height:
            totals = with_past(totals, totals_by_user(past.frame, plan.unit))
    return totals


def _read(totals: pl.DataFrame, plan: Plan) -> Reading:
    treated, control = (user_totals(totals.filter(pl.col("is_treated") == own)) for own in (True, False))
    rule = plan.rule
    # The intervals have two sides: of one side they are those of twice the level.
    outcomes, trials = float(totals["outcomes"].sum()), float(totals["trials"].sum())
    planned = plan.planned_error(outcomes / trials)
    if not planned:
        raise EvaluationError("the arms have no outcome, whose rates could be compared")
    return read_test(treated, control, planned_error=planned, share=rule.treated, alpha=rule.alpha * 2 / rule.sides)


def _arm(own: pl.DataFrame, totals: pl.DataFrame, treated: bool) -> dict[str, Any]:
    users = totals.filter(pl.col("is_treated") == treated)
    trials, outcomes = float(users["trials"].sum()), float(users["outcomes"].sum())
    return {
        "users": users.height,
        "impressions": own.filter(pl.col("is_treated") == treated).height,
        "trials": trials,
        "outcomes": outcomes,
        "rate": outcomes / trials if trials else None,
    }


def _maturity(rows: SettledRows, marked: pl.DataFrame) -> dict[str, Any]:
    return {
        "settled_until": rows.settled.isoformat() if rows.settled else None,
        "share": rows.share,
        "in_an_arm": marked.height,
        "without_user": rows.without_user,
        "without_value": rows.without_value,
    }


def _slices(own: pl.DataFrame, plan: Plan, column: str) -> list[dict[str, Any]]:
    """The effect by the values of a column, without the period before: users do other things in other slices."""
    found = []
    for (value,), rows in sorted(own.group_by(column), key=lambda one: str(one[0][0])):
        arms = rows.group_by("user").agg(pl.col("is_treated").first())
        totals = totals_by_user(rows, plan.unit).join(arms, on="user", how="left")
        by_arm = [totals.filter(pl.col("is_treated") == own_arm) for own_arm in (True, False)]
        content: dict[str, Any] = {"slice": column, "value": str(value), "users": [arm.height for arm in by_arm]}
        content["impressions"] = rows.height
        reading: Reading | None = None
        if min(content["users"]) >= SLICE_USERS:
            try:
                reading = _read(totals, plan)
            except EvaluationError:
                reading = None
        if reading is not None and np.isfinite(reading.relative.value):
            error = (reading.difference.high - reading.difference.value) / float(special.ndtri(1 - reading.alpha / 2))
            content |= {"difference": reading.difference.to_json(), "relative": reading.relative.to_json()}
            content["p_value"] = float(2 * special.ndtr(-abs(reading.difference.value) / error)) if error else 1.0
        else:
            content |= {"difference": None, "relative": None, "p_value": None}
        found.append(content)
    return found


def _mark(slices: Sequence[dict[str, Any]]) -> None:
    """Says which slices have an effect after Benjamini-Hochberg over all of them."""
    tested = [one for one in slices if one["p_value"] is not None]
    p_values = np.array([one["p_value"] for one in tested], dtype=np.float64)
    marked = benjamini_hochberg(p_values, FALSE_DISCOVERY_RATE)
    for one in slices:
        one["differs"] = False
    for one, differs in zip(tested, marked, strict=True):
        one["differs"] = bool(differs)


def plan_of(content: Mapping[str, Any]) -> Plan:
    """The plan in what ``ctr experiment plan --json`` wrote.

    Raises:
        EvaluationError: it is none.
    """
    return Plan.from_json(content.get("plan", {}) if isinstance(content, Mapping) else {})
