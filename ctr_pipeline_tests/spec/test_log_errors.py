"""What a user reads when a spec declares its logs wrongly: files, columns, times, labels; the field, the value, the remedy."""

import pytest

from ctr_pipeline_tests.spec.changes import Change, require_message, set_to, without

CASES: dict[str, tuple[Change, tuple[str, ...]]] = {
    "id not mentioned": (without("impression.id"), ("impression.id: required, but absent",)),
    "feature called as the weight of rows": (
        lambda c: (set_to("features.dense.0.name", "weight")(c), set_to("impression.weight", "load")(c)),
        ("feature names weight are used by the pipeline", "another `name`"),
    ),
    "hashed weight": (
        lambda c: (set_to("impression.weight", "load")(c), set_to("privacy.pseudonymise", ["load"])(c)),
        ("column 'load' is an id", "named as a time, slot, number"),
    ),
    "negative tolerance": (set_to("source.max_early", "-1s"), ("source.max_early", "30m", "(found '-1s')")),
    "tolerance without a unit": (set_to("source.max_early", 5), ("source.max_early",)),
    "tolerance of days": (set_to("source.max_early", "25h"), ("`max_early` is 25h", "not differ by more than 1d")),
    "two clocks": (
        set_to("impression.order", {"column": "row", "rows_per_day": 10}),
        ("impression: declare exactly one of `time` (a clock) and `order`", "found both"),
    ),
    "no clock": (without("impression.time"), ("declare exactly one of `time`", "found neither")),
    "two kinds of label": (
        set_to("tasks.0.label.column", "clicked"),
        ("tasks.0.label: declare exactly one of `event`, `column` and `time_column`; found event and column",),
    ),
    "no label": (set_to("tasks.0.label", {}), ("tasks.0.label", "found none")),
    "closed_by without a time column": (
        set_to("tasks.0.label.closed_by", ["declined"]),
        ("tasks.0.label: `closed_by` ['declined'] goes with `time_column`, and the label has `event`",),
    ),
    "a log of labels that is not declared": (
        set_to("tasks.0.label", {"column": "y", "log": "label"}),
        ("task 'click' reads log 'label', which `source.labels` does not declare; it has none",),
    ),
    "a log of labels that no task reads": (
        set_to("source.labels", [{"paths": ["labels.csv"]}]),
        ("no task reads log 'labels' of `source.labels`: name it in `label.log`, or remove it",),
    ),
    "a log of an event": (
        set_to("tasks.0.label.log", "labels"),
        ("tasks.0.label: `log` says in which log `column` is: it needs that",),
    ),
    "a log of labels with half a time": (
        set_to("source.labels", [{"paths": ["labels.csv"], "ingest_time": "got"}]),
        ("source.labels.0: `ingest_time` goes with `time`",),
    ),
    "logs of one name": (
        set_to("source.labels", [{"name": "outcome_events"}]),
        ("source: logs of outcomes need different names",),
    ),
    "a log of labels without ids": (
        lambda c: (
            set_to("source.labels", [{"paths": ["labels.csv"]}])(c),
            set_to("tasks", [{"name": "click", "window": "0s", "label": {"column": "y", "log": "labels"}}])(c),
            set_to("impression.id", None)(c),
        ),
        ("`source.labels` joins by `impression.id`: name that column, not null",),
    ),
    "a log of labels with times beside an order": (
        lambda c: (
            set_to("source.labels", [{"paths": ["labels.csv"], "time": "at"}])(c),
            set_to("tasks", [{"name": "click", "window": "0s", "label": {"column": "y", "log": "labels"}}])(c),
            set_to("impression", {"id": "i", "user": "u", "order": {"rows_per_day": 9}})(c),
        ),
        ("log 'labels' of `source.labels` has times, but the days of an `order` are artificial",),
    ),
    "null values of a log of labels": (
        lambda c: (
            set_to("source.labels", [{"paths": ["labels.csv"], "null_values": {"x": [0]}}])(c),
            set_to("tasks", [{"name": "click", "window": "0s", "label": {"column": "y", "log": "labels"}}])(c),
            set_to("features.history", [])(c),
        ),
        ("`null_values` of log 'labels' names column 'x'", "it reads impression_id, y"),
    ),
    "shows with events": (
        set_to("impression.shows", "shown"),
        ("with `impression.shows` a row stands for several impressions, and the label of task 'click'",),
    ),
    "shows with named labels": (
        lambda c: (
            set_to("impression.shows", "shown")(c),
            set_to("tasks", [{"name": "click", "window": "0s", "label": {"column": "y", "counts": "positive"}}])(c),
            set_to("features.history", [])(c),
        ),
        ("the label column of task 'click' holds the number of impressions with the outcome: remove `positive`",),
    ),
    "an arm of both kinds": (
        set_to("impression.arm", {"column": "variant", "control": ["a"], "treatment": ["a", "b"]}),
        ("values ['a'] are both `control` and `treatment`",),
    ),
    "an arm without a control": (
        set_to("impression.arm", {"column": "variant", "control": [], "treatment": ["b"]}),
        ("impression.arm.control",),
    ),
    "a feature called arm beside arms": (
        lambda c: (
            set_to("impression.arm", {"column": "variant", "control": ["a"], "treatment": ["b"]})(c),
            set_to("features.dense.0.name", "arm")(c),
        ),
        ("feature names arm are used by the pipeline",),
    ),
    "an arm that is an id": (
        set_to("impression.arm", {"column": "user_id", "control": ["a"], "treatment": ["b"]}),
        ("column 'user_id' is an id",),
    ),
    "a simulated experiment outside the period": (
        lambda c: (set_to("source", {"simulator": {"experiment": {"day": "2030-01-01"}}})(c),),
        ("the experiment begins on 2030-01-01, outside the period 2026-01-01 to 2026-02-21",),
    ),
    "a simulated experiment that ends before it begins": (
        set_to("source", {"simulator": {"experiment": {"day": "2026-01-20", "last_day": "2026-01-10"}}}),
        ("`last_day` 2026-01-10 is before `day` 2026-01-20",),
    ),
    "an effect that leaves no clicks": (
        set_to("source", {"simulator": {"experiment": {"day": "2026-01-20", "click": -1}}}),
        ("source.simulator.experiment.click",),
    ),
    "a feature of shows": (
        lambda c: (
            set_to("impression.shows", "price")(c),
            set_to("tasks", [{"name": "click", "window": "0s", "label": {"column": "y"}}])(c),
        ),
        ("feature 'price' reads column 'price', which `impression.shows` names",),
    ),
    "a filter without a condition": (
        set_to("source.impressions.rows", {"column": "price"}),
        ("source.impressions.rows.0: declare one of `keep`, `drop` and a range (`at_least`, `below`); found none",),
    ),
    "a filter with two conditions": (
        set_to("source.events.0.rows", [{"column": "price", "keep": [1], "below": 5}]),
        ("source.events.0.rows.0", "found keep and a range"),
    ),
    "an empty range": (
        set_to("source.impressions.rows", {"column": "price", "at_least": 5, "below": 5}),
        ("`at_least` 5 is not less than `below` 5",),
    ),
    "an empty range of times": (
        set_to("source.impressions.rows", {"column": "ts", "at_least": "2026-02-01", "below": "2026-01-31T23:00"}),
        ("`at_least` 2026-02-01 is not less than `below` 2026-01-31T23:00",),
    ),
    "a range of a number and a time": (
        set_to("source.impressions.rows", {"column": "ts", "at_least": 5, "below": "2026-01-31"}),
        ("are both numbers or both times",),
    ),
    "a range of words": (
        set_to("source.impressions.rows", {"column": "ts", "at_least": "b"}),
        ("source.impressions.rows.0.at_least: a number is expected, or a time such as 2026-01-31", "(found 'b')"),
    ),
    "a range of truth values": (
        set_to("source.impressions.rows", {"column": "ts", "below": True}),
        ("source.impressions.rows.0.below: a number is expected",),
    ),
    "an unknown key of a filter": (
        set_to("source.impressions.rows", {"column": "ts", "keeps": [1]}),
        ("source.impressions.rows.0.keeps: unknown key; did you mean `keep`?",),
    ),
    "null values of a column that is not read": (
        set_to("source.impressions.null_values", {"prize": [-1]}),
        ("`null_values` of source.impressions names column 'prize', which", "did you mean 'price'?"),
    ),
    "null values of a column of another log": (
        set_to("source.events.0.null_values", ["NA", {"price": [-1]}]),
        ("`null_values` of event log 'outcome_events' names column 'price'", "it reads impression_id, event_type"),
    ),
    "null values that are no list": (
        set_to("source.impressions.null_values", {"price": -1}),
        ("source.impressions.null_values: a list of values is expected", "{age: [-1]}"),
    ),
    "two columns of one name": (
        set_to("source.impressions.columns", ["a", "", "b", "", "a"]),
        ("source.impressions", "`columns` has 'a' more than once"),
    ),
    "columns without names": (set_to("source.impressions.columns", ["", ""]), ("`columns` has no name",)),
    "columns of a format that names its own": (
        set_to("source.events.0", {"columns": ["a"], "format": "ndjson"}),
        ("source.events.0", "`columns` names those of CSV files without a header, and the format is ndjson"),
    ),
    "a quote of two characters": (
        set_to("source.impressions.quote", "''"),
        ("source.impressions", "`quote` is one ASCII character"),
    ),
    "a line break as quote": (set_to("source.impressions.quote", "\n"), ("`quote` is one ASCII character",)),
    "a letter as escape": (set_to("source.impressions.escape", "e"), ("`escape` is one ASCII character",)),
    "an empty escape": (set_to("source.impressions.escape", ""), ("`escape` is one character; remove it",)),
    "the separator as quote": (
        set_to("source.impressions.quote", ","),
        ("`quote` and `separator` are both ','",),
    ),
    "the separator as escape": (
        set_to("source.events.0", {"separator": "|", "escape": "|"}),
        ("source.events.0", "`escape` and `separator` are both '|'"),
    ),
    "the quote as escape": (
        set_to("source.impressions", {"quote": "'", "escape": "'"}),
        ("`escape` and `quote` are both",),
    ),
    "the quote of most files as escape": (
        set_to("source.impressions.escape", '"'),
        ("`escape` is the quote itself: remove it",),
    ),
    "an escape without quotes": (
        set_to("source.impressions", {"quote": "", "escape": "\\"}),
        ("`escape` holds within quoted texts, and `quote` is empty",),
    ),
    "empty separator": (
        set_to("features.categorical.0.list", {"separator": ""}),
        ("features.categorical.0.list.separator",),
    ),
    "no event log": (
        without("source.events"),
        ("tasks click, order read events, but `source.events` declares no event log: add one",),
    ),
    "events that nothing can join": (
        set_to("impression.id", None),
        ("tasks click, order read events, which join by `impression.id`",),
    ),
    "event logs of one name": (
        set_to("source.events", [{"paths": ["a.csv"]}, {"paths": ["b.csv"]}]),
        ("source: logs of outcomes need different names", "outcome_events", "give each a `name`"),
    ),
    "unknown incident": (
        set_to("source", {"simulator": {"incidents": [{"kind": "fire", "day": "2026-01-02"}]}}),
        ("source.simulator.incidents.0: set `kind` to one of 'click_log_outage'", "(found 'fire')"),
    ),
    "incident outside the period": (
        set_to("source", {"simulator": {"incidents": [{"kind": "late_burst", "day": "2030-01-02"}]}}),
        ("source.simulator: ", "late_burst on 2030-01-02 is outside the period 2026-01-01 to 2026-02-21"),
    ),
    "simulator and files": (
        set_to("source.simulator", {}),
        ("source: `simulator` and file paths exclude each other", "impressions.parquet"),
    ),
    "unknown time zone": (
        set_to("time_zone", "Mars/Olympus"),
        ("time_zone: 'Mars/Olympus' is no IANA time zone such as UTC or Europe/Amsterdam",),
    ),
    "unknown time zone of a log": (
        set_to("source.impressions.time_zone", "CEST"),
        ("source.impressions.time_zone: 'CEST' is no IANA time zone",),
    ),
    "unknown time format": (
        set_to("impression.time_format", "%d/%m/%Y %Q"),
        ("impression.time_format: `%Q` is no directive of a time format",),
    ),
    "time format without a year": (
        set_to("impression.time_format", "%d/%m %H:%M"),
        ("impression.time_format", "no year"),
    ),
    "time format that is a word": (set_to("impression.time_format", "iso"), ("it has no year: write `%Y`",)),
    "time format with the name of a zone": (
        set_to("impression.time_format", "%Y-%m-%d %H:%M %Z"),
        ("`%Z` stands for the name of a zone", "`time_zone`"),
    ),
    "time format with half a clock": (
        set_to("impression.time_format", "%d/%m/%Y %I:%M"),
        ("`%I` is an hour of 12: add `%p`",),
    ),
    "time format with a bare fraction": (
        set_to("impression.time_format", "%d/%m/%Y %H:%M:%S,%f"),
        ("`%f` stands right after a point",),
    ),
    "time format that is a number": (set_to("impression.time_format", 14), ("a format such as '%d/%m/%Y %H:%M'",)),
    "time format of no time column": (
        set_to("impression.time_format", {"price": "%d/%m/%Y"}),
        ("`time_format` of impression names 'price', which is no time column",),
    ),
    "unknown unit of a time offset": (
        set_to("impression.time_offset", {"column": "lead", "unit": "w"}),
        ("impression.time_offset.unit", "'d'", "(found 'w')"),
    ),
    "time offset without a time": (
        set_to(
            "impression",
            {"id": None, "order": {"column": "n", "rows_per_day": 9}, "time_offset": {"column": "n", "unit": "d"}},
        ),
        ("`time_offset` moves the time in `time`",),
    ),
    "empty time zone": (set_to("time_zone", ""), ("time_zone: '' is no IANA time zone",)),
    "unknown time unit": (set_to("impression.time_unit", "min"), ("impression.time_unit", "'ms'", "(found 'min')")),
    "unknown format": (
        set_to("source.impressions.format", "xlsx"),
        ("source.impressions.format", "'parquet', 'csv' or 'ndjson'", "(found 'xlsx')"),
    ),
    "days the wrong way round": (
        set_to("days", {"first": "2026-02-01", "last": "2026-01-01"}),
        ("days: `last` 2026-01-01 is before `first` 2026-02-01",),
    ),
    "no date": (set_to("days.first", "soon"), ("days.first", "date", "(found 'soon')")),
    "traffic that is both": (
        set_to("impression.traffic.production", ["random"]),
        ("impression.traffic: values ['random'] are both `random` and `production`",),
    ),
    "traffic that is nothing": (
        set_to("impression.traffic.random", []),
        ("impression.traffic.random", "at least 1 item"),
    ),
    "first position without a position": (
        lambda c: (set_to("impression.first_position", 0)(c), without("impression.position")(c)),
        ("`first_position` 0 says how `position` counts: name that column",),
    ),
    "negative first position": (
        set_to("impression.first_position", -1),
        ("impression.first_position", "greater than or equal to 0", "(found -1)"),
    ),
    "positive values of an event": (
        set_to("tasks.0.label.positive", ["Yes"]),
        ("tasks.0.label: `positive` says how the values of `column` are read",),
    ),
    "counts of an event": (
        set_to("tasks.0.label.counts", "positive"),
        ("tasks.0.label: `counts` says how the values of `column` are read",),
    ),
    "negative values of an event": (
        set_to("tasks.0.label.negative", ["No"]),
        ("tasks.0.label: `negative` says how the values of `column` are read",),
    ),
    "negative values alone": (
        set_to("tasks.0.label", {"column": "clicked", "negative": ["No"]}),
        ("tasks.0.label: `negative` ['No'] goes with `positive`",),
    ),
    "a value that is positive and negative": (
        set_to("tasks.0.label", {"column": "clicked", "positive": ["Yes", 1], "negative": ["No", 1]}),
        ("tasks.0.label: values [1] are both `positive` and `negative`",),
    ),
    "counts beside positive values": (
        set_to("tasks.0.label", {"column": "clicked", "positive": ["Yes"], "counts": "positive"}),
        ("tasks.0.label: declare one of `counts` and `positive`; found both",),
    ),
    "unknown policy for counts": (
        set_to("tasks.0.label", {"column": "clicked", "counts": "drop"}),
        ("tasks.0.label.counts", "'positive'", "(found 'drop')"),
    ),
    "hashed number": (
        set_to("privacy.pseudonymise", ["price"]),
        ("numeric feature 'price' reads column 'price', which is replaced by a keyed hash", "features.categorical"),
    ),
    "user id as a number": (set_to("features.dense.0.column", "user_id"), ("column 'user_id'", "keyed hash")),
    "hashed time": (set_to("privacy.pseudonymise", ["ts"]), ("column 'ts' is an id", "only ids and categories")),
    "user id as a label": (
        set_to("tasks.0.label", {"column": "user_id"}),
        ("column 'user_id' is an id", "name another column"),
    ),
    "user id as the type of events": (
        set_to("source.events", [{"name": "clicks", "paths": ["c.csv"], "type": "user_id"}]),
        ("event log 'clicks'", "its `type` is column 'user_id'", "says what happened"),
    ),
}


@pytest.mark.parametrize(("change", "parts"), CASES.values(), ids=CASES.keys())
def test_message_names_field_value_and_remedy(change: Change, parts: tuple[str, ...]) -> None:
    require_message(change, parts)
