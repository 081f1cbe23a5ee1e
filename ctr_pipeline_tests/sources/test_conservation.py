"""Whatever a log holds, each of its rows ends in exactly one place."""

from collections.abc import Callable
from datetime import date
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ctr_pipeline.sources import Pseudonymiser, read_impressions
from ctr_pipeline_tests.example_counts import costly

Maker = Callable[..., Any]

DIRTY = st.fixed_dictionaries(
    {
        "id": st.none() | st.sampled_from(["", "a", "b", "c", "d", "e"]),
        "at": st.none()
        | st.sampled_from(["", "2026-01-05T01:00:00Z", "2026-01-06", "2026-01-20", "1767600000000000", "?"]),
        "who": st.none() | st.sampled_from(["", "u1", "u2"]),
        "price": st.none() | st.sampled_from(["", "1", "-1", "1e9", "nan", "inf", "true", "x", "1.5"]),
        "item": st.none() | st.text(max_size=4),
        "clicked": st.none() | st.sampled_from(["", "0", "1", "1.0", "true", "2", "yes"]),
    }
)


@settings(max_examples=costly(60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(DIRTY, max_size=9), name=st.sampled_from(["log.parquet", "log.ndjson", "log.csv"]))
def test_no_row_is_lost_or_counted_twice(
    make_spec: Maker,
    pseudonymiser: Pseudonymiser,
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[dict[str, str | None]],
    name: str,
) -> None:
    schema = dict.fromkeys(["id", "at", "who", "price", "item", "clicked"], pl.String)
    frame = pl.DataFrame(rows, schema=schema)
    path = tmp_path_factory.mktemp("log") / name
    {"log.parquet": frame.write_parquet, "log.ndjson": frame.write_ndjson, "log.csv": frame.write_csv}[name](path)
    if path.stat().st_size == 0:
        return
    scope = (date(2026, 1, 1), date(2026, 1, 31))
    whole = read_impressions(make_spec(), [path], *scope, pseudonymiser, scope[0])
    assert whole.rows_in == whole.kept.height + whole.quarantined.height + whole.ignored == len(rows)
    sources = whole.quarantined["source_row"].to_list()
    assert len(set(sources)) == len(sources)
    assert whole.quarantined["reason"].null_count() == 0
    assert whole.quarantined["day"].is_between(*scope).all()
    days = pl.date_range(*scope, eager=True)
    daily = [
        read_impressions(make_spec(), [path], day, day, pseudonymiser, scope[0])
        for day in days
        if day.day in (1, 5, 6, 20)
    ]
    assert sum(part.rows_in for part in daily) == whole.rows_in
    good = pl.col("price").is_null() | pl.col("price").is_in(["", "1", "nan", "true", "1.5"])
    good &= pl.col("clicked").is_null() | pl.col("clicked").is_in(["", "0", "1", "1.0", "true"])
    good &= (
        pl.col("at").is_not_null() & ~pl.col("at").is_in(["", "?"]) & pl.col("id").is_not_null() & (pl.col("id") != "")
    )
    times = {"2026-01-05T01:00:00Z": 1, "1767600000000000": 2, "2026-01-06": 3, "2026-01-20": 4}
    dated = frame.with_row_index().with_columns(time=pl.col("at").replace_strict(times, default=None))
    if name != "log.parquet":  # a line with a zero character is no row
        dated = dated.filter(~pl.col("item").str.contains("\0", literal=True).fill_null(False))
    earliest = (
        dated.filter(pl.col("time").is_not_null() & (pl.col("id") != ""))
        .sort("time", "index")
        .unique("id", keep="first")
    )
    assert sorted(whole.kept["impression_id"]) == sorted(earliest.filter(good).select(pseudonymiser.expr("id"))["id"])
