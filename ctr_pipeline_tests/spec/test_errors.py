"""What a user reads when features, tasks, split, model or training of a spec are wrong: field, value found, remedy."""

import pytest
import yaml

from ctr_pipeline.spec import parse_spec
from ctr_pipeline_tests.spec.changes import GOOD, Change, message_of, require_message, set_to, without


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
    "no tasks": (set_to("tasks", []), ("tasks: ", "at least 1 item", "found a list")),
    "no features": (set_to("features", {}), ("features: declare at least one feature",)),
    "feature twice": (set_to("features.dense.0.name", "ad_id"), ("features: ", "used twice: ad_id")),
    "reserved feature name": (
        set_to("features.dense.0.name", "position"),
        ("feature names position are used by the pipeline", "another `name`", "`column`"),
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
    "number as history key": (set_to("features.history.0.key", "price"), ("has key 'price'; use one of ad_id",)),
    "history by user without users": (
        lambda c: (set_to("features.history.0.key", "user")(c), without("impression.user")(c)),
        ("history feature 'ctr_7d' has key 'user', but `impression.user` names no column",),
    ),
    "history of an unknown task": (
        set_to("features.history.0.task", "view"),
        ("counts task 'view'; use one of click, order",),
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
        set_to("model.interactions", [7]),
        ("model.interactions.0: a kind, or a mapping with the key `kind`, is expected, found 7",),
    ),
    "one interaction instead of a list": (
        set_to("model.interactions", {"kind": "factorisation_machine"}),
        ("model.interactions: ", "list"),
    ),
    "field that the interaction does not have": (
        set_to("model.interactions", [{"kind": "factorisation_machine", "width": 4}]),
        ("model.interactions.0: width: unknown key",),
    ),
    "interaction of no layers": (
        set_to("model.interactions", [{"kind": "cross", "layers": 0}]),
        ("model.interactions.0: layers: ", "greater than 0", "(found 0)"),
    ),
    "normalisation that is none": (
        set_to("model.interactions", [{"kind": "mask_net", "normalisation": "batch"}]),
        ("model.interactions.0: normalisation: ", "'layer', 'field' or 'none'"),
    ),
    "gates that are no switch": (
        set_to("model.hidden_gates", "some"),
        ("model.hidden_gates", "found 'some'"),
    ),
    "unknown objective": (
        set_to("tasks.0.objective", {"kind": "binray"}),
        ("tasks.0.objective: set `kind` to one of 'binary'", "found 'binray', did you mean 'binary'?"),
    ),
    "unknown loss": (
        set_to("tasks.1.objective", {"kind": "binary", "loss": {"kind": "focale"}}),
        (
            "tasks.1.objective: loss: set `kind` to one of 'binary_cross_entropy', 'dfm_discrete',",
            "did you mean 'focal'?",
        ),
    ),
    "loss without a kind": (
        set_to("tasks.0.objective", {"kind": "binary", "loss": ["focal"]}),
        ("tasks.0.objective: loss: a kind, or a mapping with the key `kind`, is expected, found a list",),
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
        set_to("calibration", 0.5),
        ("calibration: a kind, or a mapping with the key `kind`, is expected, found 0.5",),
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
    "slice of two lengths": (
        set_to("split.test", {"days": 3, "fraction": 0.1}),
        ("split.test: declare exactly one of `days`, `fraction` and `first`; found days and fraction",),
    ),
    "slice of no length": (set_to("split.test", {}), ("split.test", "found none")),
    "a last day without a first": (
        set_to("split.test", {"days": 3, "last": "2026-03-09"}),
        ("split.test: `last` 2026-03-09 belongs to a `first` day",),
    ),
    "a last day before the first": (
        set_to("split.test", {"first": "2026-03-10", "last": "2026-03-09"}),
        ("split.test: `last` 2026-03-09 belongs to a `first` day that is not after it; found 2026-03-10",),
    ),
    "a last day of the calibration": (
        set_to("split.calibration", {"first": "2026-03-08", "last": "2026-03-09"}),
        ("split: `calibration` has a `last` day: only `test` has",),
    ),
    "parts in another order": (
        set_to(
            "split", {k: {"first": f"2026-03-0{n}"} for n, k in enumerate(("validation", "test", "calibration"), 1)}
        ),
        ("split: `test` begins on 2026-03-02, and `calibration` before it on 2026-03-03: the order is",),
    ),
    "a test before labels settle": (
        set_to("split", {"calibration": {"first": "2026-03-03"}, "test": {"first": "2026-03-05"}}),
        ("`split.calibration` begins on 2026-03-03 and `split.test` on 2026-03-05: labels take", "move one of them"),
    ),
    "drawn parts of so many days": (
        set_to("split", {"by": "row", "test": {"fraction": 0.1}}),
        ("split: `by` draws parts at random, so each of them is a share: set `fraction` in calibration, validation",),
    ),
    "drawn parts with a training interval": (
        set_to(
            "split",
            {k: {"fraction": 0.1} for k in ("test", "calibration", "validation")} | {"by": "row", "train_days": 3},
        ),
        ("split: `train_days` limits a training interval, and `by` draws at random",),
    ),
    "drawn by sessions that the log does not name": (
        set_to("split", {k: {"fraction": 0.1} for k in ("test", "calibration", "validation")} | {"by": "session"}),
        ("`split.by` is 'session', but `impression.session` names no column: add it, or use another key",),
    ),
    "slices that leave nothing": (
        set_to("split", {k: {"fraction": 0.4} for k in ("test", "calibration", "validation")}),
        ("split: the fractions add up to 1.2: leave some of the impressions for training",),
    ),
    "grouped by sessions that the log does not name": (
        set_to("evaluation", {"group_by": "session"}),
        ("`evaluation.group_by` is 'session', but `impression.session` names no column: add it, or use another key",),
    ),
    "a feature with the name of a key": (
        lambda c: (
            set_to("evaluation", {"cluster_by": "household"})(c),
            set_to("features.categorical.0.name", "cluster_key")(c),
            without("features.history")(c),
        ),
        ("feature names cluster_key are used by the pipeline",),
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
    "other version": (set_to("version", 2), ("version: ", "1", "(found 2)")),
}


@pytest.mark.parametrize(("change", "parts"), CASES.values(), ids=CASES.keys())
def test_message_names_field_value_and_remedy(change: Change, parts: tuple[str, ...]) -> None:
    require_message(change, parts)


def test_all_problems_are_reported_at_once() -> None:
    wrong = {"seed": -1, "training.epochs": 0, "training.seed": 2**31, "tasks.0.window": "soon"}
    message = message_of(*(set_to(field, value) for field, value in wrong.items()))
    assert all(part in message for part in ("shop.yaml: 4 problem(s)", *(f"{field}: " for field in wrong)))
