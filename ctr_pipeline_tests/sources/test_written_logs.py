"""Whatever a log holds and however it is written: each row ends in one place, and equal content gives equal tables."""

import hashlib
import hmac
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ctr_pipeline.sources import Pseudonymiser, ReadResult, SourceError, read_events, read_impressions
from ctr_pipeline.spec import Spec
from ctr_pipeline_tests.sources import written_logs as written
from ctr_pipeline_tests.sources.written_logs import Cell, Dialect, Log, Written

Maker = Callable[..., Spec]

SCOPE = date(2025, 12, 1), date(2026, 5, 1)
KEY = b"0123456789abcdef"
WHITE_SPACE = "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
MOST_ROWS = 24
SMALL = settings(
    max_examples=8,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
LARGE = settings(SMALL, max_examples=1_000)


@dataclass(frozen=True)
class Case:
    """A log of impressions, and how it is written."""

    dialect: Dialect
    zone: str
    names: Mapping[str, str]
    """The log's name of each column."""
    log: Log
    torn: Sequence[int]
    """Rows before which text files have a line that is no row."""
    private: bool
    """Whether categories are replaced by pseudonyms."""


@st.composite
def impression_logs(draw: st.DrawFn) -> Case:
    dialect, rows = draw(written.dialects()), draw(st.integers(1, MOST_ROWS))
    odd = ["Preis (€)", 'a "b"', "'c'", "x,y", "x;y", "x|y", "x\ty", " price ", "a\\b", "a.b"]
    price = draw(st.sampled_from(["price", *(name for name in odd if not set(name) & set(dialect.unwritable))]))
    zone = draw(st.sampled_from(["UTC", "Europe/Amsterdam", "America/New_York"]))
    log = {
        "id": draw(written.categories(dialect, rows, first=True, exact=True)),
        "at": draw(written.times(rows, zone)),
        "who": draw(written.categories(dialect, rows, exact=True)),
        price: draw(written.numbers(rows)),
        "item": draw(written.categories(dialect, rows)),
        "clicked": draw(written.labels(rows)),
        "bought": draw(written.times(rows, zone)),
        "unread": draw(written.categories(dialect, rows)),
    }
    torn = draw(st.lists(st.integers(0, rows - 1), max_size=2))
    return Case(dialect, zone, {"price": price}, log, torn, draw(st.booleans()))


def pseudonym(text: str | None) -> str | None:
    """As reading replaces ids, by the standard library."""
    if text is None or not text.strip(WHITE_SPACE):
        return None
    return hmac.new(KEY, text.encode(), hashlib.sha256).hexdigest()[:32]


def write_all(log: Log, folder: Path, dialect: Dialect, torn: Sequence[int]) -> dict[str, Path]:
    """The log in every format."""
    packed = ".gz" if dialect.packed else ""
    ending = "tsv" if dialect.separator == "\t" else "csv"
    paths = {name: folder / f"log.{name}{packed}" for name in ("parquet", "ndjson", ending)}
    written.write_parquet(log, paths["parquet"], dialect)
    written.write_ndjson(log, paths["ndjson"], dialect, torn)
    written.write_csv(log, paths[ending], dialect, torn)
    return paths


def places(rows: int, torn: Sequence[int]) -> list[int]:
    """The row in the file of each row of the content."""
    return [row + sum(place <= row for place in torn) for row in range(rows)]


def expected_impressions(case: Case, place: Sequence[int]) -> tuple[list[tuple[Any, ...]], list[tuple[int, str]]]:
    """The kept rows, and the reasons of the others by row of the file."""
    columns = {name: column.cells for name, column in case.log.items()}
    rows = list(zip(*columns.values(), strict=True))
    ids = [None if cell.reason else pseudonym(cell.meaning) for cell in columns["id"]]
    dated = [n for n, row in enumerate(rows) if row[1].meaning is not None and ids[n] is not None]
    first: dict[str, int] = {}
    for n in sorted(dated, key=lambda n: (rows[n][1].meaning, n)):
        first.setdefault(str(ids[n]), n)
    kept, reasons = [], []
    for n, (identity, at, who, price, item, clicked, bought, _) in enumerate(rows):
        found = [
            "duplicate_id" if n in dated and first[str(ids[n])] != n else None,
            identity.reason or ("missing_id" if ids[n] is None else None),
            at.reason or ("missing_time" if at.meaning is None else None),
            *(cell.reason for cell in (who, price, item, clicked, bought)),
        ]
        reason = next((reason for reason in found if reason), None)
        if reason:
            reasons.append((place[n], reason))
        else:
            category = pseudonym(item.meaning) if case.private else item.meaning
            kept.append((at.meaning, ids[n], pseudonym(who.meaning), price.meaning, category))
    return sorted(kept), reasons


def expected_outcomes(case: Case, place: Sequence[int]) -> tuple[list[tuple[Any, ...]], list[tuple[int, str]], int]:
    """What is kept of the columns with outcomes, what is set aside, and the number of ignored statements."""
    ids = [None if cell.reason else pseudonym(cell.meaning) for cell in case.log["id"].cells]
    at, clicked, bought = (case.log[name].cells for name in ("at", "clicked", "bought"))
    kept: list[tuple[Any, ...]] = []
    reasons: list[tuple[int, str]] = []
    ignored, seen = 0, set()
    for n in sorted((n for n in range(len(ids)) if at[n].meaning is not None), key=lambda n: (at[n].meaning, n)):
        if ids[n] is None or ids[n] in seen:
            ignored += 1
            continue
        seen.add(ids[n])
        if clicked[n].reason:
            reasons.append((place[n], str(clicked[n].reason)))
        elif clicked[n].meaning == 0:
            ignored += 1
        else:
            kind = "unknown" if clicked[n].meaning is None else "outcome"
            kept.append((ids[n], "click", kind, at[n].meaning, place[n]))
    for n, cell in enumerate(bought):
        if cell.meaning is None:
            continue
        if ids[n] is None or at[n].meaning is None:
            ignored += 1
        else:
            kept.append((ids[n], "order", "outcome", cell.meaning, place[n]))
    return sorted(kept), sorted(reasons), ignored


def spec_of(make_spec: Maker, case: Case) -> Spec:
    return make_spec(
        source={"impressions": {"paths": ["x"], **case.dialect.fields}},
        time_zone=case.zone,
        features={"dense": [{"name": "price", "column": case.names["price"]}], "categorical": [{"name": "item"}]},
        tasks=[
            {"name": "click", "window": "0s", "label": {"column": "clicked"}},
            {"name": "order", "window": "3d", "label": {"time_column": "bought"}},
        ],
        privacy={"pseudonymise": ["item"] if case.private else []},
    )


def set_aside(result: ReadResult) -> list[tuple[int, str]]:
    """Rows and reasons of the quarantine, lines that are no rows left out."""
    quarantined = result.quarantined.filter(pl.col("reason") != "malformed_row")
    return sorted(quarantined.select("source_row", "reason").rows())


def read_or_refuse(read: Callable[[], ReadResult]) -> ReadResult | None:
    """None for a log of which a whole column is unusable; that must not depend on how it is written."""
    try:
        result = read()
    except SourceError as error:
        if "values of column" not in str(error):
            raise
        return None
    assert result.rows_in == result.kept.height + result.quarantined.height + result.ignored
    return result


def check_impressions_and_outcomes(make_spec: Maker, key: Pseudonymiser, folder: Path, case: Case) -> None:
    spec, rows = spec_of(make_spec, case), len(case.log["id"].cells)
    refused = set()
    for name, path in write_all(case.log, folder, case.dialect, case.torn).items():
        torn = [] if name == "parquet" else case.torn
        place = places(rows, torn)
        result = read_or_refuse(lambda path=path: read_impressions(spec, [path], *SCOPE, key, SCOPE[0]))
        refused.add(result is None)
        if result is None:
            continue
        assert result.rows_in == rows + len(torn)
        kept, reasons = expected_impressions(case, place)
        assert result.kept.select("ts", "impression_id", "user", "price", "item").rows() == kept, name
        assert set_aside(result) == reasons, name
        found = read_events(spec, [path], {}, *SCOPE, key, SCOPE[0])
        assert found.rows_in == found.kept.height + found.quarantined.height + found.ignored
        outcomes, reasons, ignored = expected_outcomes(case, place)
        columns = ("impression_id", "event", "kind", "event_ts", "source_row")
        assert sorted(found.kept.select(columns).rows()) == outcomes, name
        assert (set_aside(found), found.ignored) == (reasons, ignored), name
    assert len(refused) == 1
    if refused == {True}:
        # Ten broken values in a column at least.
        assert max(sum(cell.reason is not None for cell in column.cells) for column in case.log.values()) >= 10


@given(case=impression_logs())
@SMALL
def test_impressions_are_the_same_however_they_are_written(
    make_spec: Maker, pseudonymiser: Pseudonymiser, tmp_path: Path, case: Case
) -> None:
    check_impressions_and_outcomes(make_spec, pseudonymiser, tmp_path, case)


@pytest.mark.nightly
@given(case=impression_logs())
@LARGE
def test_many_impressions_are_the_same_however_they_are_written(
    make_spec: Maker, pseudonymiser: Pseudonymiser, tmp_path: Path, case: Case
) -> None:
    check_impressions_and_outcomes(make_spec, pseudonymiser, tmp_path, case)


@dataclass(frozen=True)
class EventCase:
    """A log of events, and the ids of the impressions that it may refer to, of another type."""

    dialect: Dialect
    impressions: Written
    log: Log
    torn: Sequence[int]


def ids_of(draw: st.DrawFn, numbers: Sequence[int | None], exact: bool) -> Written:
    """A column of whole numbers in one of the types that logs have for them."""
    kinds: dict[Any, Callable[[int], Cell]] = {
        pl.UInt64: lambda n: Cell(n, str(n), str(n), str(n)),
        pl.Decimal(38, 2): lambda n: Cell(n, f"{n}.00", f"{n}.00", str(n)),
        pl.String: lambda n: Cell(f" {n}", f" {n}", f'" {n}"', str(n)),
        pl.Categorical: lambda n: Cell(f"{n}.0", f"{n}.0", f'"{n}.0"', str(n)),
    }
    if exact:
        kinds[pl.Float64] = lambda n: Cell(float(n), f"{n}.0", f"{n}.0", str(n))
    else:
        # From 2**53 on, a number with a point is rounded.
        kinds.pop(pl.Categorical)
        kinds.pop(pl.Decimal(38, 2))
    kind = draw(st.sampled_from(list(kinds)))
    return Written(kind, [written.MISSING if n is None else kinds[kind](n) for n in numbers])


@st.composite
def event_logs(draw: st.DrawFn) -> EventCase:
    dialect, rows, exact = draw(written.dialects()), draw(st.integers(1, MOST_ROWS)), draw(st.booleans())
    pool = draw(st.lists(st.integers(0, 2**53 - 1 if exact else 2**64 - 1), min_size=2, max_size=5, unique=True))
    types: dict[Any, list[Cell]] = {
        pl.String: [Cell(t, t, f'"{t}"', t.strip() or None) for t in ("click", " click", "scroll", "7", "", "true")],
        pl.Int64: [Cell(n, str(n), str(n), str(n)) for n in (7, 8)],
        pl.Boolean: [Cell(b, str(b), str(b).lower(), str(b).lower()) for b in (True, False)],
    }
    kind = draw(st.sampled_from(list(types)))
    chosen = draw(st.lists(written.missing_or(st.sampled_from(types[kind])), min_size=rows, max_size=rows))
    log = {
        "shown": ids_of(draw, draw(st.lists(st.none() | st.sampled_from(pool), min_size=rows, max_size=rows)), exact),
        "what": Written(kind, chosen),
        "when": draw(written.times(rows, "UTC")),
        "unread": draw(written.categories(dialect, rows)),
    }
    # The last of the pool is an orphan wherever it occurs.
    torn = draw(st.lists(st.integers(0, rows - 1), max_size=2))
    return EventCase(dialect, ids_of(draw, pool[:-1], exact), log, torn)


def expected_events(case: EventCase, place: Sequence[int]) -> tuple[list[tuple[Any, ...]], list[tuple[int, str]], int]:
    tasks = {"click": ["click", "late_click"], "7": ["order"], "true": ["stay"]}
    kept, reasons, ignored = [], [], 0
    for n, (shown, what, when, _) in enumerate(zip(*(column.cells for column in case.log.values()), strict=True)):
        found = [
            "missing_id" if shown.meaning is None else None,
            "missing_type" if what.meaning is None else None,
            when.reason or ("missing_time" if when.meaning is None else None),
        ]
        reason = next((reason for reason in found if reason), None)
        if what.meaning is not None and what.meaning not in tasks:
            ignored += 1
            continue
        for task in tasks.get(what.meaning, [""]):
            if reason:
                reasons.append((place[n], reason))
            else:
                kept.append((pseudonym(shown.meaning), task, when.meaning, place[n]))
    return sorted(kept), sorted(reasons), ignored


def check_events(make_spec: Maker, key: Pseudonymiser, folder: Path, case: EventCase) -> None:
    names = {"impression_id": "shown", "type": "what", "time": "when"}
    labels = {"click": "click", "late_click": "click", "order": "7", "stay": "true"}
    spec = make_spec(
        source={
            "impressions": {"paths": ["x"], **case.dialect.fields},
            "events": [{"name": "actions", **names, **case.dialect.fields}],
        },
        features={"categorical": [{"name": "id"}]},
        tasks=[{"name": name, "window": "1d", "label": {"event": event}} for name, event in labels.items()],
    )
    shown: Log = {
        "id": case.impressions,
        "at": Written(
            pl.String, [Cell("2026-01-05", "2026-01-05", '"2026-01-05"', None)] * len(case.impressions.cells)
        ),
        "who": Written(pl.String, [Cell("u", "u", '"u"', "u")] * len(case.impressions.cells)),
    }
    (folder / "shown").mkdir(exist_ok=True)
    logs = write_all(shown, folder / "shown", case.dialect, [])
    seen = [read_impressions(spec, [path], *SCOPE, key, SCOPE[0]).kept["impression_id"] for path in logs.values()]
    assert all(ids.equals(seen[0]) and len(ids) == len(case.impressions.cells) for ids in seen)
    known = {cell.meaning for cell in case.impressions.cells}
    for name, path in write_all(case.log, folder, case.dialect, case.torn).items():
        torn = [] if name == "parquet" else case.torn
        place = places(len(case.log["shown"].cells), torn)
        result = read_events(spec, [], {"actions": [path]}, *SCOPE, key, SCOPE[0])
        kept, reasons, ignored = expected_events(case, place)
        assert result.rows_in == result.kept.height + result.quarantined.height + result.ignored
        assert result.rows_in == len(kept) + len(reasons) + ignored + len(torn)
        found = result.kept.select("impression_id", "event", "event_ts", "source_row")
        assert (sorted(found.rows()), set_aside(result), result.ignored) == (kept, reasons, ignored), name
        orphans = {place[n] for n, cell in enumerate(case.log["shown"].cells) if cell.meaning not in known}
        without = found.filter(~pl.col("impression_id").is_in(seen[0].implode()))["source_row"]
        assert set(without) == orphans & set(found["source_row"]), name


@given(case=event_logs())
@SMALL
def test_events_are_the_same_however_they_are_written(
    make_spec: Maker, pseudonymiser: Pseudonymiser, tmp_path: Path, case: EventCase
) -> None:
    check_events(make_spec, pseudonymiser, tmp_path, case)


@pytest.mark.nightly
@given(case=event_logs())
@LARGE
def test_many_events_are_the_same_however_they_are_written(
    make_spec: Maker, pseudonymiser: Pseudonymiser, tmp_path: Path, case: EventCase
) -> None:
    check_events(make_spec, pseudonymiser, tmp_path, case)
