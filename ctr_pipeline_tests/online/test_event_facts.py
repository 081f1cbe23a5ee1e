"""Outcomes of one impression at a time are those that labelling finds for all."""

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from ctr_pipeline.labels import label_facts
from ctr_pipeline.online.event_facts import Arrived, known_outcomes
from ctr_pipeline.spec import parse_spec

HOUR = 3_600_000_000
SPEC = parse_spec(
    """
version: 1
name: t
source: {impressions: {paths: [x.parquet]}, events: [{paths: [y.parquet]}]}
impression: {id: i, time: t, user: u}
features: {dense: [{name: price}]}
tasks:
  - {name: click, window: 3h, label: {event: click}}
  - {name: buy, parent: click, window: 4h, window_from: click, label: {event: buy}}
  - {name: like, parent: click, window: 6h, label: {event: like}}
  - {name: again, parent: buy, window: 2h, window_from: click, label: {event: again}}
""",
    "t",
)
START = 1_700_000_000_000_000
hours = st.integers(-3, 8)
events = st.lists(st.tuples(st.sampled_from(["click", "buy", "like", "again"]), hours, st.integers(0, 6)), max_size=7)
impressions = st.lists(st.tuples(st.integers(0, 3), events), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None)
@given(impressions, st.sampled_from([0, HOUR, 2 * HOUR]))
def test_facts_are_those_of_labelling(found: list, max_early: int) -> None:
    shown, happened = [], []
    for number, (delay, own) in enumerate(found):
        shown.append((f"i{number}", START, START + delay * HOUR))
        happened += [(f"i{number}", task, START + at * HOUR, START + (at + late) * HOUR) for task, at, late in own]
    rows = pl.DataFrame(shown, schema=["impression_id", "ts", "ingest_ts"], orient="row")
    rows = rows.with_columns(day=pl.from_epoch("ts", "us").dt.date())
    schema = {"impression_id": pl.String, "event": pl.String, "event_ts": pl.Int64, "ingest_ts": pl.Int64}
    log = pl.DataFrame(happened, schema=schema, orient="row").with_columns(kind=pl.lit("outcome"))
    facts = label_facts(rows.lazy(), log.lazy(), SPEC.tasks, START + 1000 * HOUR, 0, max_early=max_early).collect()
    expected = {
        (row["impression_id"], row["task"]): (row["event_ts"], row["known_ts"])
        for row in facts.filter(pl.col("known_ts").is_not_null()).iter_rows(named=True)
    }
    online = {}
    for name, ts, arrived in shown:
        own = [Arrived(task, at, known) for of, task, at, known in happened if of == name]
        for task, fact in known_outcomes(SPEC.tasks, ts, arrived, own, max_early).items():
            online[name, task] = tuple(fact)
    assert online == expected
