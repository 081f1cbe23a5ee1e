"""What a user reads when encodings of numbers, frequencies of ids or hidden layers are wrong, and what a short form means."""

import pytest

from ctr_pipeline.spec.encodings import Bucket, Cyclic, PiecewiseLinear
from ctr_pipeline.spec.features import CategoricalFeature, Features, NumericFeature
from ctr_pipeline_tests.spec.changes import Change, require_message, set_to

CASES: dict[str, tuple[Change, tuple[str, ...]]] = {
    "unknown normalisation": (
        set_to("model.normalisation", "batch"),
        ("model.normalisation", "'layer' or 'none'", "'batch'"),
    ),
    "residual in words": (set_to("model.residual", "some"), ("model.residual", "boolean", "(found 'some')")),
    "unknown encoding": (
        set_to("features.dense.0.encoding", "picewise_linear"),
        ("features.dense.0.encoding: set `kind` to one of 'bucket', 'cyclic'", "did you mean 'piecewise_linear'?"),
    ),
    "encoding that is no section": (
        set_to("features.history.0.encoding", 16),
        ("features.history.0.encoding: a kind, or a mapping with the key `kind`, is expected, found 16",),
    ),
    "cyclic without a period": (
        set_to("features.dense.0.encoding", "cyclic"),
        ("features.dense.0.encoding: period: required, but absent: add it",),
    ),
    "period of an encoding without one": (
        set_to("features.encoding", {"kind": "bucket", "period": 24}),
        ("features.encoding: period: unknown key",),
    ),
    "cyclic for all numbers": (
        set_to("features.encoding", {"kind": "cyclic", "period": 24}),
        ("features: `encoding: cyclic` is for single numbers", "Move it there"),
    ),
    "cyclic with a transform": (
        set_to(
            "features.dense.0",
            {"name": "hour", "transform": "signed_log1p", "encoding": {"kind": "cyclic", "period": 24}},
        ),
        ("features.dense.0: `encoding: cyclic` is of the value itself: remove `transform: signed_log1p`",),
    ),
    "a cold start of a list": (
        set_to("features.categorical.0", {"name": "ad_id", "list": {}, "cold_start": {"parent": "query"}}),
        ("features.categorical.0: `cold_start` is for ids that are new some day", "remove it, or `list`"),
    ),
    "a cold start from itself": (
        set_to("features.categorical.0.cold_start", {"parent": "ad_id"}),
        ("feature 'ad_id' has the cold start parent 'ad_id'", "no other categorical feature of one value"),
    ),
    "a cold start that does nothing": (
        set_to("features.categorical.0.cold_start", {"days": 0}),
        ("features.categorical.0.cold_start: without a `parent` and without `days` it does nothing",),
    ),
    "a cold start with the evidence of no parent": (
        set_to("features.categorical.0.cold_start", {"evidence": 100}),
        ("`evidence` is that of a value beside its `parent`: declare one, or remove it",),
    ),
    "a cold start of negative days": (
        set_to("features.categorical.0.cold_start", {"parent": "query", "days": -1}),
        ("features.categorical.0.cold_start.days", "greater than or equal to 0", "(found -1)"),
    ),
    "a cold start without evidence": (
        set_to("features.categorical.0.cold_start", {"parent": "query", "evidence": 0}),
        ("features.categorical.0.cold_start.evidence", "greater than 0", "(found 0)"),
    ),
    "frequency of a list": (
        set_to("features.categorical.0", {"name": "ad_id", "list": {}, "frequency": True}),
        ("features.categorical.0: `frequency` is that of one value", "has a `list` of them: remove one of both"),
    ),
    "frequency of a time": (
        set_to("features.contextual.0", {"name": "hour", "type": "categorical", "time": "hour", "frequency": True}),
        ("features.contextual.0", "how frequent a part of the `time` is", "remove `frequency`"),
    ),
    "frequency of a number": (
        set_to("features.dense.0.frequency", True),
        ("features.dense.0.frequency: unknown key",),
    ),
    "frequency in words": (
        set_to("features.categorical.0.frequency", "often"),
        ("features.categorical.0.frequency", "boolean", "(found 'often')"),
    ),
    "too few bins": (
        set_to("features.dense.0.encoding", {"kind": "piecewise_linear", "bins": 1}),
        ("features.dense.0.encoding: bins: ", "greater than or equal to 2", "(found 1)"),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_message_names_field_value_and_remedy(case: str) -> None:
    change, parts = CASES[case]
    require_message(change, parts)


def test_a_kind_alone_is_short_for_its_section() -> None:
    assert NumericFeature.model_validate({"name": "x", "encoding": "bucket"}).encoding == Bucket()
    section = {"kind": "cyclic", "period": 24}
    assert NumericFeature.model_validate({"name": "x", "encoding": section}).encoding == Cyclic(period=24)
    features = Features.model_validate({"dense": [{"name": "x"}], "encoding": "piecewise_linear"})
    # Neither do the hash of a spec that says nothing of encodings and the columns that were read know of them.
    assert (features.encoding, "encoding" in str(features.model_dump())) == (PiecewiseLinear(), False)
    shown = Features.model_validate({"dense": [{"name": "x", "encoding": "bucket"}], "encoding": "standard"})
    assert Features.model_validate(shown.model_dump(mode="json")) == shown
    assert "frequency" not in CategoricalFeature(name="ad").model_dump()
