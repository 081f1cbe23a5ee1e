"""Events that name no impression: each belongs to the latest impression with its ids, and to no other."""

from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctr_pipeline.sources import Pseudonymiser, ReadResult, SourceError, read_events, read_impressions
from ctr_pipeline.sources.clock import TS
from ctr_pipeline.sources.last_touch import FATE, attribute_events, key_column
from ctr_pipeline.spec import Spec
from ctr_pipeline_tests.example_counts import costly

START = datetime(2026, 1, 5, 23, 56, tzinfo=UTC)
FIRST, LAST = date(2026, 1, 5), date(2026, 1, 8)
KEY = Pseudonymiser(b"0123456789abcdef")
HASHES = pl.DataFrame({"id": [f"i{n}" for n in range(20)]}).select(KEY.of(pl.col("id")))["id"].to_list()
Write = Callable[[pl.DataFrame, str], Path]

minutes = st.integers(0, 8)
ids = st.sampled_from([1, 1, 1, 2, None])
shown_rows = st.lists(st.tuples(ids, ids, minutes, st.one_of(st.none(), st.integers(1, 2))), min_size=1, max_size=12)
event_rows = st.lists(st.tuples(ids, st.sampled_from([1, 1, 2, 3]), minutes), min_size=1, max_size=8)
WINDOWS = [(within, early) for within in (0, 1, 4) for early in (0, 1)]


def spec_of(within: str = "3m", early: str = "0s", **log: Any) -> Spec:
    by = {"who": "customer", "item": "sku"}
    orders = {"name": "orders", "impression_id": None, "attribute": {"by": by, "within": within}, "type": "what", **log}
    return Spec.model_validate(
        {
            "version": 1,
            "name": "shop",
            "source": {
                "impressions": {"paths": ["log.parquet"]},
                "events": [orders | {"time": "at"}],
                "max_early": early,
            },
            "impression": {"id": "id", "time": "at", "user": "who", "position": "slot"},
            "features": {"categorical": [{"name": "product", "column": "item"}]},
            "tasks": [{"name": "order", "window": "7d", "label": {"event": "order"}}],
        }
    )


def log_of(rows: Sequence[tuple[Any, Any, int, Any]]) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "id": [f"i{n}" for n in range(len(rows))],
            "who": [None if who is None else f"u{who}" for who, *_ in rows],
            "item": [item for _, item, *_ in rows],
            "at": [START + timedelta(minutes=minute) for *_, minute, _ in rows],
            "slot": [slot for *_, slot in rows],
        },
        schema_overrides={"who": pl.String, "item": pl.Int64, "slot": pl.Int64},
    )


def events_of(rows: Sequence[tuple[Any, Any, int]], what: str = "order") -> pl.DataFrame:
    return pl.DataFrame(
        {
            "customer": [None if who is None else f"u{who}" for who, *_ in rows],
            "sku": [item for _, item, _ in rows],
            "at": [START + timedelta(minutes=minute) for *_, minute in rows],
            "what": [what] * len(rows),
        },
        schema_overrides={"customer": pl.String, "sku": pl.Int64},
    )


def read(spec: Spec, log: Path, *files: Path, first: date = FIRST, last: date = LAST) -> ReadResult:
    shown = read_impressions(spec, [log], FIRST, LAST, KEY, FIRST).kept.lazy()
    result = read_events(spec, [log], {"orders": files}, first, last, KEY, FIRST, shown=shown)
    assert result.rows_in == result.kept.height + result.quarantined.height + result.ignored
    return result


def touched(result: ReadResult) -> list[tuple[str, int]]:
    """The impression and the minute of each event that has one, in their order."""
    names = {value: f"i{n}" for n, value in enumerate(HASHES)}
    origin = int(START.timestamp())
    return sorted((names[shown], at // 60_000_000 - origin // 60) for shown, at in of_kept(result))


def of_kept(result: ReadResult) -> list[tuple[str, int]]:
    return list(result.kept.select("impression_id", "event_ts").iter_rows())


def expected(
    event: tuple[Any, Any, int], log: Sequence[tuple[Any, Any, int, Any]], within: int, early: int
) -> tuple[str | None, bool]:
    """The impression of an event, and whether others are as good, by a loop over the impressions."""
    who, item, at = event
    found: list[tuple[int, int, str, str]] = []
    for n, (user, product, minute, slot) in enumerate(log):
        if who is not None and (user, product) == (who, item) and at - within <= minute <= at + early:
            found.append((minute, slot or 0, HASHES[n], f"i{n}"))
    if not found:
        return None, False
    return max(found)[3], sum(one[0] == max(found)[0] for one in found) > 1


@pytest.mark.parametrize(("within", "early"), WINDOWS)
@settings(max_examples=costly(60), deadline=None)
@given(log=shown_rows, events=event_rows)
def test_the_latest_impression_of_the_ids_is_the_one(
    within: int, early: int, log: list[Any], events: list[Any]
) -> None:
    spec = spec_of(f"{within}m", f"{early}m")
    shown = log_of(log).with_columns(pl.col("at").dt.epoch("us").alias("ts"), pl.col("at").dt.date().alias("day"))
    shown = shown.with_columns(impression_id=pl.Series(HASHES[: len(log)]), user=KEY.of(pl.col("who")))
    table = shown.rename({"slot": "position"}).with_columns(product=pl.col("item").cast(pl.String)).lazy()
    frame = events_of(events).select(
        pl.col("at").dt.epoch("us").alias(TS),
        KEY.of(pl.col("customer")).alias(key_column(0)),
        pl.col("sku").cast(pl.String).alias(key_column(1)),
    )
    attribute = spec.source.events[0].attribute
    assert attribute is not None
    found = attribute_events(spec, attribute, frame, pl.lit(True), table)
    names = {value: f"i{n}" for n, value in enumerate(HASHES)}
    answers = [(names.get(value), fate) for value, fate in found.select("impression_id", FATE).iter_rows()]
    assert answers == [
        (
            one,
            "without_key" if who is None else "unattributed" if one is None else "ambiguous" if tied else "attributed",
        )
        for (one, tied), (who, *_) in ((expected(event, log, within, early), event) for event in events)
    ]


@settings(max_examples=12, deadline=None)
@given(
    log=shown_rows,
    events=event_rows,
    within=st.integers(0, 4),
    early=st.integers(0, 1),
    data=st.data(),
)
def test_every_event_belongs_to_the_latest_impression_of_its_ids(
    tmp_path_factory: pytest.TempPathFactory,
    log: list[Any],
    events: list[Any],
    within: int,
    early: int,
    data: st.DataObject,
) -> None:
    """However the events are ordered and spread over files, formats and days that are read apart."""
    folder = tmp_path_factory.mktemp("touch")
    spec = spec_of(f"{within}m", f"{early}m")
    log_of(log).write_parquet(folder / "log.parquet")
    shuffled, at = data.draw(st.permutations(events)), data.draw(st.integers(0, len(events)))
    events_of(shuffled[:at]).write_parquet(folder / "a.parquet")
    events_of(shuffled[at:]).write_csv(folder / "b.csv")
    files = [folder / "a.parquet", folder / "b.csv"]
    result = read(spec, folder / "log.parquet", *files)
    answers = [expected(event, log, within, early) for event in events]
    assert touched(result) == sorted(
        (shown, event[2]) for event, (shown, _) in zip(events, answers, strict=True) if shown is not None
    )
    fates = {
        "attributed": sum(shown is not None and not tied for shown, tied in answers),
        "ambiguous": sum(tied for _, tied in answers),
        "unattributed": sum(
            shown is None and event[0] is not None for event, (shown, _) in zip(events, answers, strict=True)
        ),
        "without_key": sum(who is None for who, *_ in events),
    }
    assert result.attributions["orders"] == {fate: number for fate, number in fates.items() if number}
    assert result.quarantined.is_empty()
    days = (read(spec, folder / "log.parquet", *files, first=day, last=day) for day in (FIRST, date(2026, 1, 6)))
    assert sorted(row for day in days for row in of_kept(day)) == sorted(of_kept(result))


def test_ids_are_hashed_and_what_is_broken_is_set_aside_without_them(write: Write) -> None:
    log = write(log_of([(1, 1, 0, None), (2, 1, 1, None)]), "log.parquet")
    rows = events_of([(1, 1, 2), (2, 1, 2), (2, 1, 2)]).with_columns(what=pl.Series(["order", None, "visit"]))
    events = write(rows, "events.parquet")
    result = read(spec_of(), log, events)
    assert touched(result) == [("i0", 2)]
    assert result.quarantined["reason"].to_list() == ["missing_type"]
    # An event of no task's concern needs no impression.
    assert (result.ignored, result.attributions["orders"]) == (1, {"attributed": 1})
    written = str(result.kept.rows()) + str(result.quarantined.rows())
    assert not any(user in written for user in ("'u1'", "'u2'"))


def test_ids_that_a_float_rounded_are_quarantined(write: Write) -> None:
    log = write(log_of([(1, 2**60, 0, None)]), "log.parquet")
    events = write(events_of([(1, 2**60, 1)]).with_columns(pl.col("sku").cast(pl.Float64)), "events.parquet")
    result = read(spec_of(), log, events)
    assert result.quarantined.select("reason", "column").rows() == [("inexact_id", "sku")]


def test_no_message_shows_the_id_of_a_user(write: Write) -> None:
    log = write(log_of([(1, 1, 0, None)]), "log.parquet")
    rows = events_of([(1, 1, 1)] * 12).with_columns(customer=pl.lit(8.25e17))
    with pytest.raises(SourceError, match="none of the 12 values of column `customer` can be used: ") as caught:
        read(spec_of(), log, write(rows, "events.parquet"))
    assert not any(digits in str(caught.value) for digits in ("825000", "8.25"))


def test_an_attributed_log_is_not_taken_for_one_without_used_types(write: Write) -> None:
    """All of its events are ignored, as none has an impression, but their type is that of a task."""
    log = write(log_of([(1, 1, 0, None)]), "log.parquet")
    result = read(spec_of(), log, write(events_of([(2, 1, 1)] * 12), "events.parquet"))
    assert (result.kept.height, result.ignored) == (0, 12)
    assert result.attributions["orders"] == {"unattributed": 12}
