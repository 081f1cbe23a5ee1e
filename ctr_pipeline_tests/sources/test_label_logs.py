"""Outcomes in files of their own: a row an impression, a column a task, with a time or with that of the impression."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ctr_pipeline.sources import Pseudonymiser, ReadResult, SourceError, read_events

Maker = Callable[..., Any]

START = datetime(2026, 1, 5, tzinfo=UTC)
FIRST, LAST = date(2026, 1, 5), date(2026, 1, 8)
TASKS = [
    {"name": "buy", "window": "2d", "label": {"column": "bought", "log": "labels"}},
    {
        "name": "keep",
        "parent": "buy",
        "window": "2d",
        "label": {"column": "state", "log": "labels", "positive": ["kept"]},
    },
]
LABELS = {"paths": ["labels"], "impression_id": "imp"}


def spec_of(make_spec: Maker, *, order: bool = False, rows: Any = (), **labels: Any) -> Any:
    sources = {"impressions": {"paths": ["log"], "rows": list(rows)}, "labels": [LABELS | labels]}
    impression = {"id": "id"} | (
        {"order": {"rows_per_day": 12, "first_day": "2026-01-05"}} if order else {"time": "at"}
    )
    return make_spec(source=sources, impression=impression, tasks=TASKS)


def read(
    spec: Any,
    shown: Any,
    labels: Any,
    pseudonymiser: Pseudonymiser,
    first: date = FIRST,
    last: date = LAST,
    **options: Any,
) -> ReadResult:
    found = read_events(spec, [shown], {"labels": [labels]}, first, last, pseudonymiser, FIRST, **options)
    assert found.rows_in == found.kept.height + found.quarantined.height + found.filtered + found.ignored
    assert sum(found.rows_in_by_day.values()) == found.rows_in
    return found


def facts(found: ReadResult, pseudonymiser: Pseudonymiser) -> set[tuple[int, str, str]]:
    """Impression, task and kind of what was stated."""
    names = {f"imp-{n}": n for n in range(100)}
    hashed = pl.DataFrame({"id": list(names)}).select(pseudonymiser.expr("id"))["id"]
    places = dict(zip(hashed, names.values(), strict=True))
    return {(places[i], e, k) for i, e, k in found.kept.select("impression_id", "event", "kind").iter_rows()}


@pytest.mark.parametrize("name", ["labels.csv", "labels.ndjson", "labels.parquet"])
@pytest.mark.parametrize("order", [False, True])
def test_labels_have_the_times_of_their_impressions(
    make_spec: Maker, make_log: Maker, write: Maker, pseudonymiser: Pseudonymiser, name: str, order: bool
) -> None:
    shown = write(make_log(rows=24))
    labels = write(
        pl.DataFrame(
            {
                "imp": ["imp-20", " imp-3", "imp-4", "imp-5"],
                "bought": [1, 0, None, 1],
                "state": ["kept", "sent back", None, None],
            }
        ),
        name,
    )
    found = read(spec_of(make_spec, order=order), shown, labels, pseudonymiser)
    expected = {
        (20, "buy", "outcome"),
        (20, "keep", "outcome"),
        (3, "buy", "closed"),
        (3, "keep", "closed"),
        (5, "buy", "outcome"),
    }
    assert facts(found, pseudonymiser) == expected
    assert (found.rows_in, found.ignored, found.quarantined.height) == (8, 3, 0)
    assert found.kept["source_log"].unique().to_list() == ["labels"]
    assert found.kept["event_ts"].equals(found.kept["ingest_ts"])
    if order:
        assert found.kept["day"].to_list() == [FIRST, FIRST, FIRST, date(2026, 1, 6), date(2026, 1, 6)]
    else:
        hours = (found.kept["event_ts"] // 3_600_000_000 - int(START.timestamp()) // 3600).to_list()
        assert sorted(hours) == [3, 3, 5, 20, 20]


def test_labels_with_times_of_their_own(
    make_spec: Maker, make_log: Maker, write: Maker, pseudonymiser: Pseudonymiser
) -> None:
    shown = write(make_log(rows=4))
    times = [START + timedelta(hours=30), START + timedelta(hours=2), START + timedelta(hours=50), None]
    labels = write(
        pl.DataFrame(
            {
                "imp": ["imp-0", "imp-1", "elsewhere", "imp-3"],
                "bought": [1, 0, 1, 1],
                "state": ["kept"] * 4,
                "seen": times,
            }
        ),
        "labels.parquet",
    )
    found = read(spec_of(make_spec, time="seen"), shown, labels, pseudonymiser)
    assert found.kept.select("day", "event", "kind").rows() == [
        (date(2026, 1, 5), "buy", "closed"),
        (date(2026, 1, 5), "keep", "outcome"),
        # Whether that impression is there is looked at with the references of events.
        *((date(2026, 1, day), event, "outcome") for day in (6, 7) for event in ("buy", "keep")),
    ]
    assert found.quarantined.select("reason", "column", "source_row").rows() == [("missing_time", "seen", 3)]
    assert found.ignored == 1


def test_labels_that_cannot_be_used(
    make_spec: Maker, make_log: Maker, write: Maker, pseudonymiser: Pseudonymiser
) -> None:
    shown = write(make_log(rows=12))
    ids = ["imp-0", "imp-1", "imp-1", "imp-2", "imp-2", "imp-3", None, "imp-77", "imp-5"]
    bought = ["1", "1", "0", "1", "1", "maybe", "1", "1", "1"]
    state = ["kept", "kept", "kept", "kept", "kept", "kept", "kept", "kept", None]
    labels = write(pl.DataFrame({"imp": ids, "bought": bought, "state": state}), "labels.csv")
    found = read(spec_of(make_spec), shown, labels, pseudonymiser)
    reasons = found.quarantined.select("source_row", "reason", "column", "value").sort("source_row").rows()
    assert reasons == [
        (1, "conflicting_label", "bought", None),
        (2, "conflicting_label", "bought", None),
        (5, "bad_label", "bought", "maybe"),
        (6, "missing_id", "imp", None),
        (7, "orphan_label", "imp", None),
    ]
    assert found.notices["duplicate_event"] == 3
    assert (1, "keep", "outcome") in facts(found, pseudonymiser)
    # Of rows that belong to a day: outcomes and what may be one.
    assert found.outcomes == {FIRST: (3, 13)}


def test_a_log_of_other_ids_is_refused(
    make_spec: Maker, make_log: Maker, write: Maker, pseudonymiser: Pseudonymiser
) -> None:
    labels = pl.DataFrame({"imp": [f"x-{n}" for n in range(12)], "bought": [1] * 12, "state": ["kept"] * 12})
    with pytest.raises(
        SourceError, match=r"none of the 12 values of column `imp` can be used.*Do both logs hold the same ids"
    ):
        read(spec_of(make_spec), write(make_log(rows=12)), write(labels, "labels.csv"), pseudonymiser)


def test_labels_go_with_impressions_that_are_left_out(
    make_spec: Maker, make_log: Maker, write: Maker, pseudonymiser: Pseudonymiser
) -> None:
    shown = write(make_log(rows=12))
    labels = pl.DataFrame({"imp": [f"imp-{n}" for n in range(12)], "bought": [1] * 12, "state": ["kept"] * 12})
    rows = [{"column": "item", "drop": ["item-0"]}]
    spec = spec_of(make_spec, rows=rows)
    found = read(spec, shown, write(labels, "labels.csv"), pseudonymiser)
    assert {place for place, _, _ in facts(found, pseudonymiser)} == {n for n in range(12) if n % 3}
    assert (found.filtered, found.quarantined.height) == (4, 0)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    ids=st.lists(st.none() | st.integers(0, 5), min_size=1, max_size=9),
    values=st.lists(st.sampled_from(["0", "1", "x", None]), min_size=9, max_size=9),
    timed=st.booleans(),
)
def test_every_row_is_counted_once(
    make_spec: Maker,
    make_log: Maker,
    pseudonymiser: Pseudonymiser,
    tmp_path_factory: pytest.TempPathFactory,
    ids: list[int | None],
    values: list[str | None],
    timed: bool,
) -> None:
    """Impressions 0 to 3 are in the log, one a day; the labels of the others have none."""
    folder, rows = tmp_path_factory.mktemp("logs"), len(ids)
    make_log(rows=4, at=[START + timedelta(days=n) for n in range(4)]).write_csv(folder / "log.csv")
    labels = pl.DataFrame(
        {
            "imp": [None if n is None else f"imp-{n}" for n in ids],
            "bought": values[:rows],
            "state": ["kept"] * rows,
            "seen": [START + timedelta(days=(n or 0) % 4) for n in ids],
        },
        schema_overrides={"imp": pl.String, "bought": pl.String},
    )
    labels.write_csv(folder / "labels.csv")
    spec = spec_of(make_spec, **({"time": "seen"} if timed else {}))
    whole = read(spec, folder / "log.csv", folder / "labels.csv", pseudonymiser)
    assert whole.rows_in == 2 * rows
    days = [FIRST + timedelta(days=n) for n in range(4)]
    daily = [read(spec, folder / "log.csv", folder / "labels.csv", pseudonymiser, day, day) for day in days]
    assert sum(found.rows_in for found in daily) == whole.rows_in
    assert pl.concat([found.kept for found in daily]).equals(whole.kept)
    stated: dict[int, set[str]] = {}
    for n, value in zip(ids, values, strict=False):
        if n is not None and value in ("0", "1") and (timed or n < 4):
            stated.setdefault(n, set()).add(value)
    kinds = {"1": "outcome", "0": "closed"}
    expected = {(n, "buy", kinds[next(iter(found))]) for n, found in stated.items() if len(found) == 1}
    assert {fact for fact in facts(whole, pseudonymiser) if fact[1] == "buy"} == expected
