"""What a user reads when a spec is wrong: the field, the value found, and what to do."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from ctr_pipeline.spec import SpecError, parse_spec

GOOD: dict[str, Any] = {
    "version": 1,
    "name": "shop",
    "source": {"impressions": {"paths": ["impressions.parquet"]}, "events": [{"paths": ["events.parquet"]}]},
    "impression": {
        "id": "impression_id",
        "time": "ts",
        "user": "user_id",
        "position": "slot",
        "traffic": {"column": "traffic", "random": ["random"], "production": ["production"]},
    },
    "features": {
        "dense": [{"name": "price"}],
        "categorical": [{"name": "ad_id"}],
        "contextual": [{"name": "hour", "type": "categorical"}],
        "history": [{"name": "ctr_7d", "kind": "rate", "key": "ad_id", "task": "click", "days": 7}],
    },
    "tasks": [
        {"name": "click", "window": "24h", "label": {"event": "click"}},
        {"name": "order", "parent": "click", "window": "7d", "window_from": "click", "label": {"event": "order"}},
    ],
}

Change = Callable[[dict[str, Any]], object]


def set_to(path: str, value: object) -> Change:
    """A change that puts ``value`` at a dotted path; numbers are places in lists."""

    def change(content: dict[str, Any]) -> None:
        *parents, last = (int(part) if part.isdigit() else part for part in path.split("."))
        section: Any = content
        for part in parents:
            section = section[part] if isinstance(part, int) else section.setdefault(part, {})
        section[last] = value

    return change


def without(path: str) -> Change:
    """A change that removes the key at a dotted path."""

    def change(content: dict[str, Any]) -> None:
        *parents, last = (int(part) if part.isdigit() else part for part in path.split("."))
        section: Any = content
        for part in parents:
            section = section[part]
        del section[last]

    return change


def message_of(*changes: Change) -> str:
    """The error text of the good spec with ``changes``."""
    content = copy.deepcopy(GOOD)
    for change in changes:
        change(content)
    with pytest.raises(SpecError) as caught:
        parse_spec(yaml.safe_dump(content), where="shop.yaml")
    text = str(caught.value)
    assert text.startswith("shop.yaml: ")
    assert "docs/spec.md" in text
    assert "pydantic" not in text.lower()
    return text


def test_the_spec_that_the_cases_change_is_good() -> None:
    assert parse_spec(yaml.safe_dump(GOOD), where="shop.yaml").name == "shop"


CASES: dict[str, tuple[Change, tuple[str, ...]]] = {
    "unknown key, near a known one": (
        set_to("features.dense.0.transfrom", "none"),
        ("features.dense.0.transfrom", "unknown key", "did you mean `transform`?"),
    ),
    "unknown key, near one of the other kind's": (
        set_to("features.contextual.0.embeding_dim", 4),
        ("features.contextual.0.embeding_dim", "did you mean `embedding_dim`?"),
    ),
    "unknown key in a categorical feature": (
        set_to("features.categorical.0.min_cuont", 4),
        ("features.categorical.0.min_cuont", "did you mean `min_count`?"),
    ),
    "unknown key in a history feature": (
        set_to("features.history.0.smothing", 4),
        ("features.history.0.smothing", "did you mean `smoothing`?"),
    ),
    "unknown key, near none": (set_to("zzz", 1), ("zzz: unknown key", "remove it or correct its spelling")),
    "unknown section": (set_to("trainning.epochs", 1), ("trainning: unknown key; did you mean `training`?",)),
    "required key absent": (without("impression"), ("impression: required, but absent: add it",)),
    "required key absent inside": (
        without("tasks.1.window"),
        ("tasks.1.window: required, but absent: add it",),
    ),
    "id not mentioned": (without("impression.id"), ("impression.id: required, but absent",)),
    "no tasks": (set_to("tasks", []), ("tasks: ", "at least 1 item", "found a list")),
    "no features": (set_to("features", {}), ("features: declare at least one feature",)),
    "feature twice": (set_to("features.dense.0.name", "ad_id"), ("features: ", "used twice: ad_id")),
    "reserved feature name": (
        set_to("features.dense.0.name", "position"),
        ("feature names position are used by the pipeline", "another `name`", "`column`"),
    ),
    "feature called as the weight of rows": (
        lambda c: (set_to("features.dense.0.name", "weight")(c), set_to("impression.weight", "load")(c)),
        ("feature names weight are used by the pipeline", "another `name`"),
    ),
    "hashed weight": (
        lambda c: (set_to("impression.weight", "load")(c), set_to("privacy.pseudonymise", ["load"])(c)),
        ("`privacy.pseudonymise` names load, whose values the pipeline has to read",),
    ),
    "contextual feature without a type": (
        without("features.contextual.0.type"),
        ("features.contextual.0: set `type` to one of 'numeric', 'categorical'",),
    ),
    "unknown type": (
        set_to("features.contextual.0.type", "text"),
        ("features.contextual.0: set `type` to one of 'numeric', 'categorical' (found 'text')",),
    ),
    "history feature without a kind": (
        without("features.history.0.kind"),
        ("features.history.0: set `kind` to one of 'rate', 'count', 'recency'",),
    ),
    "unknown history kind": (set_to("features.history.0.kind", "mean"), ("`kind`", "'rate'", "(found 'mean')")),
    "duration without a unit": (
        set_to("tasks.0.window", 24),
        ("tasks.0.window", "30m, 24h or 14d", "(found 24)"),
    ),
    "duration in words": (set_to("tasks.0.window", "one day"), ("tasks.0.window", "24h", "(found 'one day')")),
    "negative duration": (set_to("split.ingest_lag", "-1h"), ("split.ingest_lag", "30m", "(found '-1h')")),
    "negative tolerance": (set_to("source.max_early", "-1s"), ("source.max_early", "30m", "(found '-1s')")),
    "tolerance without a unit": (set_to("source.max_early", 5), ("source.max_early",)),
    "tolerance of days": (set_to("source.max_early", "25h"), ("`max_early` is 25h", "not differ by more than 1d")),
    "fraction of a unit": (set_to("tasks.0.window", "1.5h"), ("tasks.0.window", "whole number", "(found '1.5h')")),
    "endless duration": (set_to("tasks.0.window", "9999999d"), ("tasks.0.window", "at most 3660d", "9999999d")),
    "parent that is no task": (
        set_to("tasks.1.parent", "clik"),
        ("tasks: task 'order' names parent 'clik'", "list parents first"),
    ),
    "parent that comes later": (set_to("tasks.0.parent", "order"), ("task 'click' names parent 'order'",)),
    "own parent": (set_to("tasks.0.parent", "click"), ("task 'click' names parent 'click'",)),
    "bad window_from": (
        set_to("tasks.0.window_from", "order"),
        ("task 'click' has window_from 'order'", "use `impression` or an earlier task"),
    ),
    "task twice": (set_to("tasks.1.name", "click"), ("task name 'click' is taken: choose another",)),
    "task called impression": (set_to("tasks.0.name", "impression"), ("task name 'impression' is taken",)),
    "name with capitals": (set_to("name", "My Shop"), ("name: ", "lower-case", "(found 'My Shop')")),
    "too long a name": (set_to("name", "a" * 65), ("name: ", "at most 64 characters", "aaa")),
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
    "unknown history key": (
        set_to("features.history.0.key", "adid"),
        ("history feature 'ctr_7d' has key 'adid'; use one of ad_id, hour, user",),
    ),
    "list as history key": (
        set_to("features.categorical.0.list", {}),
        ("history feature 'ctr_7d' has key 'ad_id'; use one of hour, user",),
    ),
    "list as history item": (
        lambda c: (
            set_to("features.contextual.0.list", {})(c),
            set_to("features.history.0", {"name": "s", "kind": "sequence", "key": "user", "item": "hour"})(c),
        ),
        ("history feature 's' lists item 'hour', which is no categorical feature of one value; use one of ad_id",),
    ),
    "part of the time and a column": (
        lambda c: (
            set_to("features.contextual.0.time", "hour")(c),
            set_to("features.contextual.0.column", "hr")(c),
        ),
        ("a feature is made of the `time` or of a column: remove `time` or `column`",),
    ),
    "part of the time and a list": (
        lambda c: (set_to("features.contextual.0.time", "hour")(c), set_to("features.contextual.0.list", {})(c)),
        ("a feature is made of the `time` or of a column: remove `time` or `list`",),
    ),
    "part of the time without a clock": (
        lambda c: (
            without("impression.time")(c),
            set_to("impression.order", {"column": "row", "rows_per_day": 10})(c),
            set_to("features.contextual.0.time", "hour")(c),
        ),
        ("feature 'hour' is made of the time of the impression, but the days of an `order` are artificial",),
    ),
    "unknown part of the time": (
        set_to("features.contextual.0.time", "minute"),
        ("features.contextual.0", "time", "'hour'", "found 'minute'"),
    ),
    "zone of no time": (
        set_to("features.contextual.0.time_zone", "Asia/Tokyo"),
        ("`time_zone` goes with `time`: which part of the local time is the feature?",),
    ),
    "list from a column of ids": (
        lambda c: (
            set_to("features.contextual.0.list", {})(c),
            set_to("features.contextual.0.column", "user_id")(c),
        ),
        ("feature 'hour' reads lists from column 'user_id', which `impression` names too",),
    ),
    "vector from the slot": (
        lambda c: (set_to("features.dense.0.width", 3)(c), set_to("features.dense.0.column", "slot")(c)),
        ("feature 'price' reads lists from column 'slot', which `impression` names too",),
    ),
    "column as a list and as a value": (
        lambda c: (set_to("features.contextual.0.list", {})(c), set_to("features.contextual.0.column", "ad_id")(c)),
        ("column 'ad_id' holds lists for one feature and single values for 'ad_id'",),
    ),
    "lists of one column with two separators": (
        lambda c: c["features"]["contextual"].extend(
            {"name": name, "type": "categorical", "column": "tags", "list": {"separator": name}} for name in "ab"
        ),
        ("features read column 'tags' with different separators: give their lists one",),
    ),
    "hashed list without a user": (
        lambda c: (
            without("impression.user")(c),
            set_to("privacy.pseudonymise", ["hour"])(c),
            set_to("features.contextual.0.list", {})(c),
        ),
        ("feature 'hour' reads lists of hashed values, but the log has no user", "`ctr forget`"),
    ),
    "vector of no numbers": (set_to("features.dense.0.width", 0), ("features.dense.0.width", "found 0")),
    "longest list": (
        set_to("features.categorical.0.list", {"max_length": 1001}),
        ("features.categorical.0.list.max_length", "found 1001"),
    ),
    "unknown pooling": (
        set_to("features.categorical.0.list", {"pooling": "median"}),
        ("features.categorical.0.list.pooling", "'mean', 'sum' or 'max'"),
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
    "number as history key": (set_to("features.history.0.key", "price"), ("has key 'price'; use one of ad_id",)),
    "history by user without users": (
        lambda c: (set_to("features.history.0.key", "user")(c), without("impression.user")(c)),
        ("history feature 'ctr_7d' has key 'user', but `impression.user` names no column",),
    ),
    "history of an unknown task": (
        set_to("features.history.0.task", "view"),
        ("counts task 'view'; use one of click, order",),
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
        ("source: event logs need different names", "outcome_events", "give each a `name`"),
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
    "text for a number": (set_to("training.epochs", "many"), ("training.epochs", "integer", "(found 'many')")),
    "number for text": (
        set_to("tasks.0.label.event", 1),
        ("tasks.0.label.event: text is expected: put the value in quotes", "(found 1)"),
    ),
    "unquoted yes": (
        set_to("tasks.0.label.event", True),
        ("tasks.0.label.event: text is expected: put the value in quotes", "(found True)"),
    ),
    "text for a list": (
        set_to("source.impressions.paths", "impressions.parquet"),
        ("source.impressions.paths: a list is expected", "(found 'impressions.parquet')"),
    ),
    "text for a section": (set_to("model", "big"), ("model: a mapping with keys is expected", "(found 'big')")),
    "empty section": (set_to("features", None), ("features: a mapping with keys is expected", "(found nothing)")),
    "mapping for text": (set_to("name", {"a": 1}), ("name: text is expected", "(found a mapping)")),
    "negative count": (set_to("training.batch_size", -5), ("training.batch_size", "greater than 0", "(found -5)")),
    "layer without units": (set_to("model.hidden", [64, 0]), ("model.hidden.1", "greater than 0", "(found 0)")),
    "dropout of all": (set_to("model.dropout", 1), ("model.dropout", "less than 1", "(found 1)")),
    "infinite weight": (set_to("tasks.0.loss_weight", float("inf")), ("tasks.0.loss_weight", "finite", "(found inf)")),
    "unknown interaction": (
        set_to("model.interactions", [{"kind": "factorization_machine"}]),
        (
            "model.interactions.0: set `kind` to one of ",
            "'factorisation_machine'",
            "found 'factorization_machine', did you mean 'factorisation_machine'?",
        ),
    ),
    "interaction without a kind": (
        set_to("model.interactions", [{"kind": "factorisation_machine"}, {}]),
        ("model.interactions.1: set `kind` to one of ", "'factorisation_machine'"),
    ),
    "interaction that is no section": (
        set_to("model.interactions", ["factorisation_machine"]),
        ("model.interactions.0: a mapping with the key `kind` is expected, found 'factorisation_machine'",),
    ),
    "one interaction instead of a list": (
        set_to("model.interactions", {"kind": "factorisation_machine"}),
        ("model.interactions: ", "list"),
    ),
    "field that the interaction does not have": (
        set_to("model.interactions", [{"kind": "factorisation_machine", "width": 4}]),
        ("model.interactions.0: width: unknown key",),
    ),
    "unknown objective": (
        set_to("tasks.0.objective", {"kind": "binray"}),
        ("tasks.0.objective: set `kind` to one of 'binary'", "found 'binray', did you mean 'binary'?"),
    ),
    "unknown loss": (
        set_to("tasks.1.objective", {"kind": "binary", "loss": {"kind": "focale"}}),
        ("tasks.1.objective: loss: set `kind` to one of 'binary_cross_entropy', 'focal'", "did you mean 'focal'?"),
    ),
    "loss without a kind": (
        set_to("tasks.0.objective", {"kind": "binary", "loss": "focal"}),
        ("tasks.0.objective: loss: a mapping with the key `kind` is expected, found 'focal'",),
    ),
    "field of another loss": (
        set_to("tasks.0.objective", {"kind": "binary", "loss": {"kind": "binary_cross_entropy", "gamma": 2}}),
        ("tasks.0.objective: loss: gamma: unknown key",),
    ),
    "focal loss that forgets all rows": (
        set_to("tasks.0.objective", {"kind": "binary", "loss": {"kind": "focal", "gamma": 11}}),
        ("tasks.0.objective: loss: gamma: ", "less than or equal to 10", "(found 11)"),
    ),
    "negative gamma": (
        set_to("tasks.0.objective", {"kind": "binary", "loss": {"kind": "focal", "gamma": -1}}),
        ("tasks.0.objective: loss: gamma: ", "greater than or equal to 0", "(found -1)"),
    ),
    "alpha of one class only": (
        set_to("tasks.0.objective", {"kind": "binary", "loss": {"kind": "focal", "alpha": 1}}),
        ("tasks.0.objective: loss: alpha: ", "less than 1", "(found 1)"),
    ),
    "unknown calibrator": (
        set_to("calibration", {"kind": "plat"}),
        ("calibration: set `kind` to one of ", "'platt'", "found 'plat', did you mean 'platt'?"),
    ),
    "calibrator without a kind": (
        set_to("calibration", "platt"),
        ("calibration: a mapping with the key `kind` is expected, found 'platt'",),
    ),
    "knots on no positives": (
        set_to("calibration", {"kind": "isotonic", "min_positives": 0}),
        ("calibration: min_positives: ", "greater than 0", "(found 0)"),
    ),
    "field of another calibrator": (
        set_to("calibration", {"kind": "platt", "min_positives": 20}),
        ("calibration: min_positives: unknown key",),
    ),
    "constant fill without a value": (
        set_to("features.dense.0.missing", {"fill": "constant"}),
        ("features.dense.0.missing: `fill: constant` needs `value`",),
    ),
    "value without constant fill": (
        set_to("features.dense.0.missing", {"value": 3}),
        ("features.dense.0.missing: `value: 3` goes with `fill: constant`, not with `fill: median`",),
    ),
    "limits the wrong way round": (
        lambda c: (set_to("features.dense.0.minimum", 2)(c), set_to("features.dense.0.maximum", 1)(c)),
        ("features.dense.0: `maximum` 1 is below `minimum` 2",),
    ),
    "days the wrong way round": (
        set_to("days", {"first": "2026-02-01", "last": "2026-01-01"}),
        ("days: `last` 2026-01-01 is before `first` 2026-02-01",),
    ),
    "no date": (set_to("days.first", "soon"), ("days.first", "date", "(found 'soon')")),
    "slice of two lengths": (
        set_to("split.test", {"days": 3, "fraction": 0.1}),
        ("split.test: declare exactly one of `days` and `fraction`; found both",),
    ),
    "slice of no length": (set_to("split.test", {}), ("split.test", "found neither")),
    "slices that leave nothing": (
        set_to("split", {k: {"fraction": 0.4} for k in ("test", "calibration", "validation")}),
        ("split: the fractions add up to 1.2: leave some of the impressions for training",),
    ),
    "traffic that is both": (
        set_to("impression.traffic.production", ["random"]),
        ("impression.traffic: values ['random'] are both `random` and `production`",),
    ),
    "traffic that is nothing": (
        set_to("impression.traffic.random", []),
        ("impression.traffic.random", "at least 1 item"),
    ),
    "weights without positions": (
        lambda c: (set_to("propensity.weighting", "ips")(c), without("impression.position")(c)),
        ("propensity weighting `ips` needs `impression.traffic` and `impression.position`: add them",),
    ),
    "weights for an unknown task": (
        set_to("propensity.responses", ["view"]),
        ("propensity response 'view' is no task; use one of click, order",),
    ),
    "evaluated key that is no feature": (
        set_to("label_quality", {"key": "advertiser"}),
        (
            "`label_quality.key` is 'advertiser', which is no categorical feature of one value; use one of ad_id",
            "or declare it",
        ),
    ),
    "evaluated task that is none": (
        set_to("label_quality", {"key": "ad_id", "tasks": ["view"]}),
        ("`label_quality.tasks` names view, which is no task; use click, order",),
    ),
    "nothing to evaluate": (
        lambda c: (set_to("label_quality", {"key": "ad_id"})(c), without("tasks.1")(c), without("features.history")(c)),
        ("`label_quality` evaluates tasks with a parent, and there is none",),
    ),
    "clip that excludes one": (
        set_to("propensity.clip", [2, 10]),
        ("propensity: `clip` is [low, high] with 0 < low <= 1 <= high; found [2.0, 10.0]",),
    ),
    "feature that is the answer": (
        lambda c: (
            set_to("tasks.0.label", {"column": "clicked"})(c),
            set_to("features.dense.0.column", "clicked")(c),
        ),
        ("feature 'price' reads column 'clicked', which holds the outcome of task 'click'", "remove the feature"),
    ),
    "feature that closes the case": (
        lambda c: (
            set_to("tasks.0.label", {"time_column": "clicked_at", "closed_by": ["left_at"]})(c),
            set_to("features.categorical.0.column", "left_at")(c),
        ),
        ("feature 'ad_id' reads column 'left_at'",),
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
    "hashed time": (set_to("privacy.pseudonymise", ["ts"]), ("`privacy.pseudonymise` names ts", "only ids")),
    "other version": (set_to("version", 2), ("version: ", "1", "(found 2)")),
}


@pytest.mark.parametrize(("change", "parts"), CASES.values(), ids=CASES.keys())
def test_message_names_field_value_and_remedy(change: Change, parts: tuple[str, ...]) -> None:
    message = message_of(change)
    assert "shop.yaml: 1 problem(s)\n" in message
    for part in parts:
        assert part in message


def test_all_problems_are_reported_at_once() -> None:
    message = message_of(set_to("seed", -1), set_to("training.epochs", 0), set_to("tasks.0.window", "soon"))
    assert "shop.yaml: 3 problem(s)" in message
    assert all(field in message for field in ("seed: ", "training.epochs: ", "tasks.0.window: "))
