"""Statuses, weights and what a table keeps: by hand and as properties."""

import math
from collections.abc import Sequence

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctr_pipeline.labels import KeyQuality, KeyStatus, QualityTable, label_quality
from ctr_pipeline.labels.population import fit_rates

HOUR = 3_600_000_000
PARENTS = {"cart": "click", "order": "cart"}

keys = st.lists(
    st.integers(0, 300).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))), min_size=1, max_size=25
)


def counted(task: str, rows: Sequence[tuple[int, int]]) -> pl.DataFrame:
    """Keys k0, k1, … with (trials, positives)."""
    return pl.DataFrame(
        [(task, f"k{number}", n, k) for number, (n, k) in enumerate(rows)],
        schema={"task": pl.String, "key": pl.String, "trials": pl.Int64, "positives": pl.Int64},
        orient="row",
    )


def delayed(task: str, delays: dict[str, list[float]]) -> pl.DataFrame:
    """Delays in hours of the outcomes of each key."""
    return pl.DataFrame(
        [(task, key, int(hours * HOUR)) for key, of_key in delays.items() for hours in of_key],
        schema={"task": pl.String, "key": pl.String, "delay": pl.Int64},
        orient="row",
    )


def evaluate(
    counts: pl.DataFrame,
    delays: pl.DataFrame | None = None,
    parents: dict[str, str | None] | None = None,
    min_trials: int = 10,
    threshold: float = 2.5,
    floor: float = 0.1,
) -> tuple[QualityTable, pl.DataFrame]:
    return label_quality(
        "shop", counts, delayed("cart", {}) if delays is None else delays, parents or {"cart": "click"},
        min_trials=min_trials, threshold=threshold, floor=floor,
    )  # fmt: skip


def honest(size: int = 40, trials: int = 60, seed: int = 2) -> list[tuple[int, int]]:
    """Keys whose rate is .4."""
    return [(trials, int(k)) for k in np.random.default_rng(seed).binomial(trials, 0.4, size)]


def test_statuses_and_weights_of_planted_keys() -> None:
    rows = [*honest(), (60, 60), (60, 3), (9, 9), (12, 11)]
    table, found = evaluate(counted("cart", rows))
    population = fit_rates(*(np.array(column) for column in zip(*rows, strict=True)))
    by_key = {row["key"]: row for row in found.iter_rows(named=True)}
    z = population.z(np.array([60, 60]), np.array([60, 3]))
    assert by_key["k40"]["z"] == pytest.approx(z[0])
    assert by_key["k40"]["status"] == KeyStatus.INFLATED
    assert by_key["k41"]["status"] == KeyStatus.DROPPED
    assert by_key["k41"]["weight"] == pytest.approx(max(0.1, (2.5 / z[1]) ** 2))
    # As far away as the inflating one, but on nine trials nobody is evaluated.
    assert by_key["k42"]["status"] == KeyStatus.UNEVALUATED
    assert (by_key["k42"]["weight"], by_key["k42"]["z"]) == (
        1.0,
        pytest.approx(population.z(np.array([9]), np.array([9]))[0]),
    )
    assert by_key["k43"]["status"] == KeyStatus.INFLATED
    (task,) = table.tasks
    assert (task.keys, task.evaluated, task.usable, task.reason) == (44, 43, True, "")
    assert (task.expected_rate, task.spread) == (pytest.approx(population.rate), pytest.approx(population.spread))
    assert task.population == population
    assert (task.inflated, task.dropped) == (
        sum(e.status == "inflated" for e in table.flagged),
        sum(e.status == "dropped" for e in table.flagged),
    )
    assert [entry.key for entry in table.flagged][:2] == ["k40", "k41"]
    flagged = found.filter(pl.col("status").is_in(["inflated", "dropped"]))
    shares = (flagged["positives"].sum() / found["positives"].sum(), flagged["trials"].sum() / found["trials"].sum())
    assert task.flagged_share == pytest.approx(max(shares))


def test_the_table_survives_being_written_and_read() -> None:
    table, _ = evaluate(
        pl.concat([counted("cart", [*honest(), (60, 60)]), counted("order", [(3, 1)])]),
        delayed("cart", {f"k{n}": [1.0 + n % 3] * 12 for n in range(30)} | {"k3": [90.0] * 12}),
        parents=dict(PARENTS),
    )
    assert table.flagged
    assert QualityTable.from_json(table.to_json()) == table
    before = table.to_json().replace('"evaluated"', '"judged"').replace('"status"', '"verdict"')
    assert before != table.to_json()
    assert QualityTable.from_json(before) == table
    assert [task.population is None for task in table.tasks] == [False, True]


def test_late_keys_are_named_and_keep_their_weight() -> None:
    # Delays of the same shape around a median that differs a little from key to key.
    shape = np.exp(np.random.default_rng(1).normal(0, 1, 15))
    delays = {f"k{n}": (shape * (20 + n % 5)).tolist() for n in range(40)} | {"k7": (shape * 400).tolist()}
    table, found = evaluate(counted("cart", honest()), delayed("cart", delays))
    assert [(entry.key, entry.status, entry.weight) for entry in table.flagged if entry.status == "late"] == [
        ("k7", KeyStatus.LATE, 1.0)
    ]
    late = found.row(by_predicate=pl.col("key") == "k7", named=True)
    assert late["delay_hours"] == pytest.approx(400 * float(np.median(shape)), rel=1e-6)
    assert late["delay_z"] > 2.5
    assert table.tasks[0].late == 1
    # An early one is not late.
    early, _ = evaluate(counted("cart", honest()), delayed("cart", delays | {"k7": (shape / 20).tolist()}))
    assert early.tasks[0].late == 0


def test_outcomes_within_a_second_and_of_unknown_keys_do_no_harm() -> None:
    delays = pl.concat(
        [delayed("cart", {"k1": [0.0] * 12, "k2": [0.0] * 12, "nobody": [5.0]}), delayed("order", {"k3": [1.0]})]
    )
    _, found = evaluate(counted("cart", honest()), delays)
    assert found.filter(pl.col("key") == "k1")["delay_z"].item() == 0
    assert found.filter(pl.col("key") == "k3")["delay_hours"].item() is None


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([(60, 24)] * 9 + [(9, 9)] * 30, "9 keys have 10 trials or more"),
        ([(60, 0)] * 30, "0 outcomes in 1800 trials"),
        ([(60, 60)] * 30, "1800 outcomes in 1800 trials"),
        ([], "0 keys have 10 trials or more"),
    ],
)
def test_without_a_population_no_key_is_evaluated(rows: list[tuple[int, int]], reason: str) -> None:
    table, found = evaluate(counted("cart", rows))
    (task,) = table.tasks
    assert not task.usable
    assert reason in task.reason
    assert (task.evaluated, task.expected_rate, task.flagged_share) == (0, None, 0.0)
    assert table.flagged == ()
    assert found["weight"].to_list() == [1.0] * len(rows)
    assert set(found["status"]) <= {KeyStatus.UNEVALUATED}
    assert table.row_weights(["cart"], pl.Series(["k0", "x"])).tolist() == [1.0, 1.0]


def entry(task: str, key: str, weight: float) -> KeyQuality:
    return KeyQuality(
        task=task, key=key, trials=50, positives=40, rate=0.8, expected_rate=0.4, z=5.0, status="inflated",
        weight=weight, delay_hours=None, delay_z=None,
    )  # fmt: skip


def test_a_step_inherits_the_smallest_weight_of_those_above_it() -> None:
    flagged = (entry("cart", "a", 0.3), entry("order", "a", 0.2), entry("order", "b", 0.5), entry("cart", "c", 0.1))
    table = QualityTable(key="shop", tasks=(), flagged=flagged)
    rows = pl.Series(["a", "b", "c", None, "d", "a"], dtype=pl.String)
    assert table.row_weights(["click"], rows).tolist() == [1, 1, 1, 1, 1, 1]
    assert table.row_weights(["cart", "click"], rows).tolist() == [0.3, 1, 0.1, 1, 1, 0.3]
    assert table.row_weights(["order", "cart", "click"], rows).tolist() == [0.2, 0.5, 0.1, 1, 1, 0.2]


@settings(max_examples=40)
@given(
    rows=keys,
    min_trials=st.integers(1, 40),
    threshold=st.floats(0.5, 4),
    floor=st.floats(0.01, 1),
    order=st.randoms(use_true_random=False),
)
def test_weights_and_statuses_of_any_counts(
    rows: list[tuple[int, int]], min_trials: int, threshold: float, floor: float, order: object
) -> None:
    counts = counted("cart", rows)
    table, found = evaluate(counts, min_trials=min_trials, threshold=threshold, floor=floor)
    shuffled = list(range(len(rows)))
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    again, frame = evaluate(counts[shuffled], min_trials=min_trials, threshold=threshold, floor=floor)
    assert again == table
    assert frame.equals(found)
    assert found.height == sum(n > 0 for n, _ in rows)
    for row in found.iter_rows(named=True):
        far = row["z"] is not None and abs(row["z"]) > threshold and row["trials"] >= min_trials
        assert (row["status"] in {KeyStatus.INFLATED, KeyStatus.DROPPED}) == far
        assert floor <= row["weight"] <= 1
        expected = max(floor, (threshold / row["z"]) ** 2) if far else 1.0
        assert row["weight"] == pytest.approx(expected)
        assert row["z"] is None or math.isfinite(row["z"])
        if far:
            assert (row["z"] > 0) == (row["status"] == KeyStatus.INFLATED)
    assert {e.key for e in table.flagged} == set(found.filter(pl.col("status").is_in(["inflated", "dropped"]))["key"])
