"""Columns of ids where other columns belong: no message, remark or stored row shows one of their values."""

from collections.abc import Callable, Mapping
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from pydantic import ValidationError

from ctr_pipeline.errors import UserError
from ctr_pipeline.sources import log_range, read_events, read_impressions, read_side_table
from ctr_pipeline.sources.listing import list_files
from ctr_pipeline.sources.pseudonyms import Pseudonymiser
from ctr_pipeline.sources.tally import ReadTally
from ctr_pipeline.spec import Spec
from ctr_pipeline_tests.sources.malformed import START

NOW = 1_767_571_200_000_000 + 30 * 86_400_000_000
TEXTS, NUMBERS = "secret-person", "90071993"
"""What all ids have in common: no message may have it."""
ROWS = 40

Maker = Callable[..., Any]


def ids(of: str, rows: int) -> list[Any]:
    """Ids of one kind: texts, or numbers of twelve digits."""
    names = range(rows)
    return [f"{TEXTS}-{n % 13}" for n in names] if of == "texts" else [int(f"{NUMBERS}{1000 + n % 13}") for n in names]


def logs(of: str, name: str, folder: Path) -> None:
    """Impressions, events, labels and a table; ``who`` holds the ids of users."""
    own = [f"{TEXTS}-{n:05}" if of == "texts" else int(f"{NUMBERS}{n:05}") for n in range(ROWS)]
    times = [START + timedelta(hours=n) for n in range(ROWS)]
    frames = {
        "shown": {
            "id": own, "at": times, "who": ids(of, ROWS), "price": [float(n) for n in range(ROWS)],
            "item": [f"item {n % 3}" for n in range(ROWS)], "clicked": [n % 2 for n in range(ROWS)],
        },
        "happened": {"impression_id": own, "event_type": ["click"] * ROWS, "event_ts": times, "who": ids(of, ROWS)},
        "told": {"impression_id": own, "bought": [n % 2 for n in range(ROWS)], "who": ids(of, ROWS)},
        "table": {"who": ids(of, 13), "since": times[:13], "age": [30 + n for n in range(13)]},
    }  # fmt: skip
    for log, content in frames.items():
        frame, path = pl.DataFrame(content), folder / f"{log}.{name}"
        if name == "csv":
            frame.write_csv(path)
        elif name == "ndjson":
            frame.write_ndjson(path)
        else:
            frame.write_parquet(path)


CLICKS = {"tasks": [{"name": "click", "window": "1h", "label": {"event": "click"}}]}
IMPRESSION = {"id": "id", "time": "at", "user": "who"}
LABEL = {"name": "clicked", "window": "0s"}


def impression(**changed: Any) -> dict[str, Any]:
    return {"impression": IMPRESSION | changed}


def event(**changed: Any) -> dict[str, Any]:
    return {"source": {"events": [{"name": "happened", **changed}]}, **CLICKS}


def label(**changed: Any) -> dict[str, Any]:
    return {"tasks": [LABEL | {"label": changed}]}


def rows(**changed: Any) -> dict[str, Any]:
    return {"source": {"impressions": {"rows": [changed]}}}


def table(feature: Mapping[str, Any], **changed: Any) -> dict[str, Any]:
    declared = {"name": "table", "key": "who", "valid_from": "since"} | changed
    return {"source": {"tables": [declared]}, "features": {"dense": [{"name": "price"}, feature]}}


ROLES: dict[str, dict[str, Any]] = {
    "time": impression(time="who"),
    "time in seconds": impression(time="who", time_unit="s"),
    "ingest time": impression(ingest_time="who"),
    "time format": impression(time="who", time_format="%d/%m/%Y %H:%M"),
    "time offset": impression(time_offset={"column": "who", "unit": "d"}),
    "order": impression(time=None, order={"column": "who", "rows_per_day": 10}),
    "position": impression(position="who"),
    "traffic": impression(traffic={"column": "who", "random": ["a"], "production": ["b"]}),
    "arm": impression(arm={"column": "who", "control": ["a"], "treatment": ["b"]}),
    "propensity": impression(propensity="who"),
    "weight": impression(weight="who"),
    "shows": impression(shows="who"),
    "number": {"features": {"dense": [{"name": "who"}]}},
    "vector": {"features": {"dense": [{"name": "who", "width": 3}]}},
    "list": {"features": {"categorical": [{"name": "who", "list": {"pooling": "mean"}}]}},
    "label": label(column="who"),
    "label of counts": label(column="who", counts="positive"),
    "label values": label(column="who", positive=["yes"], negative=["no"]),
    "outcome time": {"tasks": [LABEL | {"window": "1d", "label": {"time_column": "who"}}]},
    "filter": rows(column="who", keep=["nothing"]),
    "filter by number": rows(column="who", at_least=1),
    "misspelt column": impression(user="whom"),
    "missing values": {"source": {"impressions": {"null_values": [{"whom": ["-"]}]}}},
    "event type": event(type="who"),
    "event time": event(time="who"),
    "event ingest time": event(ingest_time="who"),
    "event by the user": event(impression_id="who"),
    "event filter": event(rows=[{"column": "who", "keep": ["nothing"]}]),
    "event attributed": event(impression_id=None, attribute={"by": {"item": "who"}, "within": "1d"}),
    "labels": {
        "source": {"labels": [{"name": "told"}]},
        "tasks": [LABEL | {"label": {"column": "who", "log": "told"}}],
    },
    "labels by the user": {
        "source": {"labels": [{"name": "told", "impression_id": "who"}]},
        "tasks": [LABEL | {"label": {"column": "bought", "log": "told"}}],
    },
    "labels at a time": {
        "source": {"labels": [{"name": "told", "time": "who"}]},
        "tasks": [LABEL | {"window": "1d", "label": {"column": "bought", "log": "told"}}],
    },
    "table of the user": table({"name": "age", "column": "table.age"}),
    "table valid from": table({"name": "age", "column": "table.age"}, valid_from="who"),
    "table of another key": table({"name": "age", "column": "table.age"}, impression_column="item"),
    "number of the table": table({"name": "age", "column": "table.who"}),
    "table filter": table({"name": "age", "column": "table.age"}, rows=[{"column": "who", "keep": ["nothing"]}]),
}  # fmt: skip


def read_all(spec: Spec, folder: Path, name: str, key: Pseudonymiser) -> str:
    """Everything that a reading of the logs says and keeps, as one text."""
    source = spec.source
    shown = list_files(source.impressions, folder, [folder / f"shown.{name}"]).files
    other = {log.name: list_files(log, folder, [folder / f"{log.name}.{name}"]).files for log in source.outcome_logs}
    first, last = log_range(spec, shown, NOW)
    found = {}
    for one in source.tables:
        files = list_files(one, folder, [folder / f"{one.name}.{name}"]).files
        found[one.name] = read_side_table(spec, one, files, key, first, shown)
    last = min(last, first + timedelta(days=20))
    kept = read_impressions(spec, shown, first, last, key, first, NOW, None, found)
    events = read_events(spec, shown, other, first, last, key, first, NOW, None, kept.kept.lazy())
    texts = []
    for result, of in ((kept, "impressions"), (events, "outcome_events")):
        tally = ReadTally()
        tally.add(result)
        texts += [str(tally.remarks(of)), repr(tally), result.kept.write_ndjson(), result.quarantined.write_ndjson()]
    return "\n".join(texts)


@pytest.mark.parametrize("name", ["csv", "ndjson", "parquet"])
@pytest.mark.parametrize("of", ["texts", "numbers"])
@pytest.mark.parametrize("role", ROLES)
def test_no_id_is_shown_wherever_its_column_is_used(
    make_spec: Maker, pseudonymiser: Pseudonymiser, tmp_path: Path, role: str, of: str, name: str
) -> None:
    logs(of, name, tmp_path)
    sections = {"days": {"first": date(2026, 1, 1), "last": date(2026, 1, 20)}}
    try:
        said = read_all(make_spec(**sections | ROLES[role]), tmp_path, name, pseudonymiser)
    except (UserError, ValidationError) as error:
        said = str(error)
    assert TEXTS not in said, said
    assert NUMBERS not in said, said
