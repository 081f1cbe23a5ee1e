"""Each kind of difference is found in the rows, named, and everything that follows from it is none of its own."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from datetime import timedelta
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctr_pipeline.attribution.differences import Compared, compare
from ctr_pipeline_tests.attribution.made_up_retrains import (
    DAY_US,
    DAYS,
    FIRST,
    SPEC,
    START,
    Rows,
    dated,
    pair,
    retrain,
    rows,
    with_lineage,
)
from ctr_pipeline_tests.example_counts import costly

device = pl.col("device")
some = pl.col("impression_id").hash(3) % 5 == 0


def roots(found: Compared) -> list[tuple[str, str, str]]:
    return [(d.kind, d.subject, d.form) for d in found.roots if not d.minor]


def test_the_same_retrain_twice_differs_in_nothing() -> None:
    found = compare(*pair(lambda frame: frame))
    assert found.differences == ()
    assert found.whole
    assert found.rows.pairs == 6000


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda f: f.with_columns(pl.col("price") * 100), ("feature", "price", "unit")),
        (lambda f: f.with_columns(pl.col("price") / 60), ("feature", "price", "unit")),
        (lambda f: f.with_columns(-pl.col("price")), ("feature", "price", "sign")),
        (lambda f: f.with_columns(pl.col("price") + 7), ("feature", "price", "offset")),
        (lambda f: f.with_columns(rating=5 - pl.col("rating")), ("feature", "rating", "complement")),
        (lambda f: f.with_columns(pl.col("price").log1p()), ("feature", "price", "transform")),
        (lambda f: f.with_columns(pl.col("price").clip(upper_bound=15.0)), ("feature", "price", "capped")),
        (lambda f: f.with_columns(pl.col("price").round(0)), ("feature", "price", "rounded")),
        (lambda f: f.with_columns(price=pl.lit(3.0)), ("feature", "price", "constant")),
        (lambda f: f.with_columns(price=pl.lit(None, dtype=pl.Float64)), ("feature", "price", "missing")),
        (lambda f: f.with_columns(price=pl.col("price").shuffle(seed=1)), ("feature", "price", "other rows")),
        (lambda f: f.with_columns(price=pl.col("rating"), rating=pl.col("price")), ("feature", "price", "swapped")),
        (lambda f: f.with_columns(price=pl.col("stock")), ("feature", "price", "other feature")),
        (
            lambda f: f.with_columns(device=pl.when(some & (device == "mobile")).then(pl.lit("tv")).otherwise(device)),
            ("category", "device", "new category"),
        ),
        (lambda f: f.with_columns(device.replace({"mobile": "phone"})), ("category", "device", "renamed")),
        (lambda f: f.with_columns(device.str.to_uppercase()), ("category", "device", "renamed")),
        (lambda f: f.with_columns(device.replace({"tablet": "mobile"})), ("category", "device", "merged")),
        (
            lambda f: f.with_columns(device.replace({"tablet": "mobile", "mobile": "desktop", "desktop": "tablet"})),
            ("category", "device", "permuted"),
        ),
        (lambda f: f.with_columns(device=pl.col("page"), page=device), ("category", "device", "swapped")),
        (lambda f: f.filter(device != "mobile"), ("rows", "impressions", "filtered")),
        (lambda f: f.filter((pl.col("ts") // (DAY_US // 24)) % 24 != 5), ("rows", "impressions", "missing hours")),
        (lambda f: f.filter((pl.col("y_click") == 1) | some), ("rows", "impressions", "sampled")),
        (
            lambda f: pl.concat([f, f.filter(some).with_columns(pl.col("impression_id") + "b")]).sort("ts"),
            ("rows", "impressions", "duplicates"),
        ),
        (lambda f: f.with_columns(pl.col("ts") + 3 * DAY_US // 24), ("time", "clock of the impressions", "clock")),
        (
            lambda f: f.with_columns(
                y_click=pl.when(pl.col("day") == FIRST + timedelta(days=3)).then(0).otherwise("y_click").cast(pl.Int8)
            ),
            ("labels", "click", "outage"),
        ),
        (lambda f: f.with_columns(y_click=1 - pl.col("y_click")), ("labels", "click", "turned")),
        (lambda f: f.with_columns(ad_clicks=pl.col("ad_clicks") + 1), ("history", "ad_clicks", "offset")),
    ],
)  # fmt: skip
def test_one_change_of_the_rows_is_one_difference(
    change: Callable[[Rows], Rows], expected: tuple[str, str, str]
) -> None:
    found = compare(*pair(change))
    assert roots(found)[0] == expected
    # Hours move days: rows at the edges are of other days then, and nothing else may be left.
    assert len(roots(found)) == 1, roots(found)


@pytest.mark.parametrize("lag", [1, 3, -2])
def test_values_of_another_day_are_found_by_their_key(lag: int) -> None:
    def later(frame: Rows) -> Rows:
        daily = frame.select((pl.col("day") + timedelta(days=lag)).alias("day"), "ad", "ad_rate").unique()
        return frame.drop("ad_rate").join(daily, on=["day", "ad"], how="left", maintain_order="left")

    found = compare(*pair(later))
    assert roots(found) == [("history", "ad_rate", "time shift")]
    assert f"{abs(lag)} day" in found.roots[0].sentence
    assert ("later" in found.roots[0].sentence) == (lag < 0)


@settings(max_examples=costly(40), deadline=None)
@given(
    factor=st.floats(1e-4, 1e4).filter(lambda x: abs(x - 1) > 1e-3), first=st.integers(0, DAYS - 1), share=st.sampled_from([1, 2, 4])
)  # fmt: skip
def test_a_unit_is_found_whatever_its_factor_since_and_share(factor: float, first: int, share: int) -> None:
    hit = (pl.col("ts") >= START + first * DAY_US) & (pl.col("impression_id").hash(5) % share == 0)
    price = pl.when(hit).then(pl.col("price") * factor).otherwise("price")
    [found] = compare(*pair(lambda frame: frame.with_columns(price=price), 1500)).roots
    assert (found.kind, found.subject, found.form) == ("feature", "price", "unit")
    assert f"{factor:.4g}" in found.sentence
    assert found.since == (FIRST + timedelta(days=first) if first else None)
    assert found.share == pytest.approx((DAYS - first) / DAYS / share, rel=0.25)


def test_what_lies_behind_a_difference_is_named_and_its_consequences_are_none_of_their_own() -> None:
    """Outcomes that are lost change what is counted of them; the count is a consequence."""

    def outage(frame: Rows) -> Rows:
        lost = pl.col("day") == FIRST + timedelta(days=2)
        return frame.with_columns(
            y_click=pl.when(lost).then(0).otherwise("y_click").cast(pl.Int8),
            ad_clicks=(pl.col("ad_clicks") - 1).clip(lower_bound=0.0),
        )

    found = compare(*pair(outage))
    assert roots(found) == [("labels", "click", "outage")]
    assert [(d.subject, cause.subject) for d, cause in found.consequences] == [("ad_clicks", "click")]


def test_another_key_of_the_hashes_is_told_by_time_and_position() -> None:
    frame = rows()
    hashed = frame.with_columns(impression_id=pl.col("impression_id").hash(9).cast(pl.String))
    found = compare(retrain(frame), retrain(hashed, key="k2"))
    assert found.rows.how == "time and position"
    assert roots(found) == [("key", "key of the hashes", "other key")]


def spec_with(path: str, value: Any) -> dict[str, Any]:
    content = deepcopy(SPEC)
    at = content
    *before, last = path.split(".")
    for name in before:
        at = at.setdefault(name, {})
    at[last] = value
    return content


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("training.learning_rate", 0.002, "learning rate"),
        ("training.epochs", 1, "epochs"),
        ("model.hidden", [8], "model.hidden"),
        ("model.interactions", [{"kind": "cross"}], "new module: cross"),
        ("features.dense", [{"name": "price"}, {"name": "stock"}, {"name": "ad_rate"}], "“rating” is no longer read"),
        ("split.train_days", 3, "training interval"),
    ],
)
def test_what_is_declared_otherwise_is_named_by_its_path(path: str, value: Any, words: str) -> None:
    frame = rows(600)
    found = compare(retrain(frame), retrain(frame, spec_with(path, value)))
    [one] = found.roots
    assert (one.kind, one.subject.startswith(path)) == ("spec", True)
    assert words in one.sentence


def test_files_of_the_code_libraries_and_machine_are_told_apart() -> None:
    frame = rows(600)
    old = retrain(frame)
    edited = with_lineage(
        retrain(frame, environment={"code": "0.1.0+bbbb"}), files={"training/loop.py": "2", "labels/table.py": "1"}
    )
    assert roots(compare(old, edited)) == [("code", "training/loop.py", "other code")]
    other = compare(old, retrain(frame, environment={"torch": "2.14.0"}))
    assert roots(other) == [("libraries", "torch", "other versions")]
    machine = compare(old, retrain(frame, environment={"cores": "8"}))
    assert roots(machine) == []
    assert [d.subject for d in machine.roots] == ["machine"]


@pytest.mark.parametrize(
    ("files", "words", "minor"),
    [
        (["ranker/embeddings.py", "training/loop.py"], "ranker/embeddings.py, training/loop.py", False),
        # Those in which a change does most come first; what cannot decide a model is not among them.
        (
            ["spec/data.py", "labels/table.py", "cli/main.py", "training/loop.py", "losses/focal.py", "features/join.py"],
            "losses/focal.py, training/loop.py, features/join.py and 2 more",
            False,
        ),
        # A query decides, in whatever language.
        (["features/exact_windows.sql", "commands/run.py"], "features/exact_windows.sql", False),
        (["orchestration/prepared_training.py"], "orchestration/prepared_training.py", False),
        (["more losses: loss.py"], "more losses: loss.py", False),
        (["cli/main.py", "evaluation/plots.py"], "cli/main.py, evaluation/plots.py", True),
        (["orchestration/assets/attribution.py", "orchestration/report_pages.py"], "orchestration/assets/attribution.py, orchestration/report_pages.py", True),
    ],
)  # fmt: skip
def test_files_that_decide_a_model_are_named_before_others(files: list[str], words: str, minor: bool) -> None:
    frame = rows(600)
    old = with_lineage(retrain(frame), files=dict.fromkeys([*files, "lake/lake.py"], "1"))
    new = with_lineage(retrain(frame, environment={"code": "0.1.0+bbbb"}), files={**dict.fromkeys(files, "2"), "lake/lake.py": "1"})  # fmt: skip
    [one] = compare(old, new).roots
    assert (one.kind, one.sentence, one.minor) == ("code", f"The code of the pipeline is another: {words}", minor)


def test_code_that_makes_the_same_model_to_the_bit_is_no_cause() -> None:
    frame = rows(600)
    made = {"arrays": {"train/ts.npy": "1"}, "model_sha256": "2"}
    old = with_lineage(retrain(frame), **made)
    edited = retrain(frame, environment={"code": "0.1.0+bbbb", "torch": "2.14.0"})
    new = with_lineage(edited, **made, files={"training/loop.py": "2", "labels/table.py": "1"})
    found = compare(old, new)
    assert [(d.kind, d.minor) for d in found.roots] == [("code", True), ("libraries", True)]
    assert all("to the bit" in d.evidence[-1] for d in found.roots)
    # Other weights, or other scores of the same weights, are a change that it may have made.
    for other in (with_lineage(new, model_sha256="3"), replace(new, logits=new.logits + 1e-9)):
        assert [d.minor for d in compare(old, other).roots] == [False, False]
    # Where no digests were kept, nothing is known.
    assert [d.minor for d in compare(with_lineage(old, model_sha256=None), with_lineage(new, model_sha256=None)).roots] == [False, False]  # fmt: skip


def test_a_vocabulary_that_is_older_than_its_rows_is_stale() -> None:
    frame = rows()
    old, new = retrain(frame), retrain(frame)
    assert new.vocabulary is not None
    few = new.vocabulary.filter((pl.col("feature") != "ad") | (pl.col("row") < 12))
    found = compare(old, replace(new, vocabulary=few.with_columns(last_day=pl.lit(FIRST))))
    assert roots(found) == [("vocabulary", "ad", "stale")]


def test_days_that_one_side_has_alone_are_drift_and_what_is_broken_on_them_is_named() -> None:
    usual, more = rows(6000), rows(8000, days=DAYS + 3)
    # The first days are the same impressions; the rest is new.
    later = more.filter(pl.col("day") >= FIRST + timedelta(days=DAYS))
    quiet = compare(retrain(usual), retrain(dated(pl.concat([usual, later]))))
    assert [kind for kind, *_ in roots(quiet)] == ["drift"]
    cents = later.with_columns(pl.col("price") * 100)
    found = compare(retrain(usual), retrain(dated(pl.concat([usual, cents]))))
    assert ("feature", "price", "unit") in roots(found)
    assert not next(d for d in found.roots if d.subject == "price").paired
    silent = compare(retrain(usual), retrain(dated(pl.concat([usual, later.with_columns(y_click=pl.lit(0, pl.Int8))]))))
    assert ("labels", "click", "outage") in roots(silent)


def test_rows_that_nobody_can_match_are_compared_by_their_distributions() -> None:
    found = compare(retrain(rows(seed=1)), retrain(rows(seed=2).with_columns(pl.col("price") * 60), key="k2"))
    assert found.rows.how == "not matched"
    assert ("feature", "price", "unit") in roots(found)
    assert not found.whole


def test_one_fault_of_several_features_is_one_difference() -> None:
    """A table that is not joined empties all its columns; a past that ends a day earlier has all its values of that day."""
    nothing = pl.lit(None, dtype=pl.Float64)
    [found] = compare(*pair(lambda f: f.with_columns(price=nothing, stock=nothing))).roots
    assert (found.form, found.features) == ("missing", ("price", "stock"))
    apart = compare(*pair(lambda f: f.with_columns(price=nothing, stock=pl.col("stock") * 10))).roots
    assert len(apart) == 2


def test_positions_are_compared_too() -> None:
    [found] = compare(*pair(lambda f: f.with_columns(position=(pl.col("position") - 1).cast(pl.Int16)))).roots
    assert (found.subject, found.form) == ("position", "offset")


def test_events_that_arrive_later_are_behind_a_past_that_changed() -> None:
    frame = rows()
    clicked = frame.filter(pl.col("y_click") == 1).select("impression_id", "ts")
    events = clicked.select(
        "impression_id", event=pl.lit("click"), event_ts=pl.col("ts") + 1000, ingest_ts=pl.col("ts") + 2000
    )
    old = replace(retrain(frame), events=events)
    moved = frame.with_columns(ad_clicks=(pl.col("ad_clicks") * 0.6).round(0))
    new = replace(retrain(moved), events=events.with_columns(pl.col("ingest_ts") + DAY_US))
    found = compare(old, new)
    assert roots(found) == [("labels", "click", "other times")]
    assert "24 hours later" in found.roots[0].sentence
    assert [d.subject for d, _ in found.consequences] == ["ad_clicks"]
