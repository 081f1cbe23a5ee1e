"""What a user reads when what a task learns from, what the position does, or how scores are calibrated or served, is declared wrongly."""

import copy

import pytest
import yaml

from ctr_pipeline.spec import parse_spec
from ctr_pipeline_tests.spec.changes import GOOD, Change, require_message, set_to

CASES: dict[str, tuple[Change, tuple[str, ...]]] = {
    "unknown maturity": (
        set_to("split.maturity", "task"),
        ("split.maturity", "by_task", "longest", "(found 'task')"),
    ),
    "a position effect without a position": (
        lambda c: (c["impression"].pop("position", None), set_to("model.position", "additive")(c)),
        ("`model.position` is additive, and no column holds the position", "`impression.position`"),
    ),
    "a context that is no category": (
        lambda c: (
            set_to("impression.position", "slot")(c),
            set_to("model.position", {"kind": "examination", "context": ["price"]})(c),
        ),
        ("`model.position.context` names 'price'", "categorical features of one value"),
    ),
    "unknown position effect": (
        set_to("model.position", "additiv"),
        ("model.position: set `kind` to one of 'additive', 'examination', 'none'", "did you mean 'additive'?"),
    ),
    "unknown architecture of the heads": (
        set_to("model.multi_task", "mmeo"),
        ("model.multi_task: set `kind` to one of 'aitm', ", "'shared_bottom'", "found 'mmeo', did you mean 'mmoe'?"),
    ),
    "one expert": (
        set_to("model.multi_task", {"kind": "mmoe", "experts": 1}),
        ("model.multi_task: experts: ", "greater than or equal to 2", "(found 1)"),
    ),
    "a tower without layers": (
        set_to("model.multi_task", {"kind": "task_towers", "tower": []}),
        ("model.multi_task: tower: ", "at least 1"),
    ),
    "gates on something else than the parent": (
        set_to("model.multi_task", {"kind": "shared_bottom", "gate_on": "child"}),
        ("model.multi_task: gate_on: ", "'parent'", "(found 'child')"),
    ),
    "gates on a parent without a funnel": (
        lambda c: (
            [task.pop("parent", None) for task in c["tasks"]],
            set_to("model.multi_task", {"kind": "ple", "gate_on": "parent"})(c),
        ),
        ("`model.multi_task.gate_on` is parent, and no task has a `parent`",),
    ),
    "a stopped task that there is not": (
        set_to("model.multi_task", {"kind": "shared_bottom", "stop_gradient": ["clack"]}),
        ("`model.multi_task.stop_gradient` names 'clack', which is no task; use one of",),
    ),
    "every task stopped": (
        lambda c: set_to("model.multi_task", {"kind": "mmoe", "stop_gradient": [task["name"] for task in c["tasks"]]})(
            c
        ),
        ("`model.multi_task.stop_gradient` names every task: nothing would learn what they share",),
    ),
    "unknown balance": (
        set_to("training.balance", "uncertanty"),
        ("training.balance: set `kind` to one of 'dwa', 'gradient', 'static', 'uncertainty'", "did you mean"),
    ),
    "a window without steps": (
        set_to("training.balance", {"kind": "dwa", "window": 0}),
        ("training.balance: window: ", "greater than 0", "(found 0)"),
    ),
    "gradients of parts of a batch": (
        lambda c: (
            set_to("training.balance", {"kind": "gradient", "aggregator": "pcgrad"})(c),
            set_to("training.processes", 2)(c),
        ),
        ("`training.balance` of kind gradient compares", "`training.processes` is 2"),
    ),
    "intervals of delay that do not rise": (
        set_to("tasks.0.objective", {"kind": "binary", "loss": {"kind": "dfm_discrete", "edges": ["2d", "1d"]}}),
        ("tasks.0.objective: loss: edges: the ends of the intervals rise from above 0; found ['2d', '1d']",),
    ),
    "labels that are more than half smoothed": (
        set_to("training.label_smoothing", 0.5),
        ("training.label_smoothing", "less than 0.5", "(found 0.5)"),
    ),
    "negative smoothing": (
        set_to("training.label_smoothing", -0.1),
        ("training.label_smoothing", "greater than or equal to 0", "(found -0.1)"),
    ),
    "smoothing in words": (set_to("training.label_smoothing", "some"), ("training.label_smoothing", "(found 'some')")),
    "a validation that nothing can pass": (
        set_to("quality.max_validation_ne", 0),
        ("quality.max_validation_ne", "greater than 0", "(found 0)"),
    ),
    "a pair of one": (
        set_to("model", {"pairs": [["ad_id", "ad_id"]]}),
        ("model: `pairs`: 'ad_id' is paired with itself; name two features",),
    ),
    "a pair of what is not there": (
        set_to("model", {"pairs": [["ad_id", "device"]]}),
        ("`model.pairs` names 'device', which is no categorical feature of one value; use one of ad_id",),
    ),
    "pairs without a linear part": (
        set_to("model", {"pairs": [["ad_id", "query"]], "wide": False}),
        ("`pairs` are weights of the linear part: remove `wide: false`, or the pairs",),
    ),
    "an unknown preset": (
        set_to("model", {"preset": "smal"}),
        ("model: `preset` 'smal' is none; use one of small, ads, conversion, feed. Did you mean 'small'?",),
    ),
    "a slice of nothing": (
        set_to("evaluation", {"slices": [{"feature": "campaign"}]}),
        (
            "`evaluation.slices[0]` names 'campaign', which is no feature of one value with values in the clear; use one of"
        ),
    ),
    "a number without intervals": (
        set_to("evaluation", {"slices": [{"feature": "price"}]}),
        ("`evaluation.slices[0]`: 'price' is a number: name the `edges`",),
    ),
    "a category with intervals": (
        set_to("evaluation", {"slices": [{"feature": "ad_id", "edges": [1, 2]}]}),
        ("'ad_id' is a category, which has no `edges`: remove them",),
    ),
    "intervals that fall": (
        set_to("evaluation", {"slices": [{"feature": "price", "edges": [7, 2]}]}),
        ("evaluation.slices.0.edges: the edges of intervals rise; found [7.0, 2.0]",),
    ),
    "a slice in the place of another": (
        set_to("evaluation", {"slices": [{"feature": "price", "edges": [1], "name": "position"}]}),
        ("`evaluation.slices`: 'position' is measured anyway; give yours another `name`",),
    ),
    "a slice of what is missing": (
        set_to("evaluation", {"slices": [{"feature": "ad_id", "name": "missing price"}]}),
        ("`evaluation.slices`: 'missing price' is measured anyway",),
    ),
    "two slices of one name": (
        set_to("evaluation", {"slices": [{"feature": "ad_id"}, {"feature": "ad_id"}]}),
        ("`evaluation.slices`: each needs a `name` of its own; found ad_id, ad_id",),
    ),
    "no time to answer": (
        set_to("serving", {"budget_ms": 0}),
        ("serving.budget_ms", "greater than 0", "(found 0)"),
    ),
    "a request for nothing": (
        set_to("serving", {"candidates": 0}),
        ("serving.candidates", "greater than or equal to 1", "(found 0)"),
    ),
    "more requests logged than there are": (
        set_to("serving", {"log": {"rate": 1.5}}),
        ("serving.log.rate", "less than or equal to 1", "(found 1.5)"),
    ),
    "no room for logged requests": (
        set_to("serving", {"log": {"spool_mb": 0}}),
        ("serving.log.spool_mb", "greater than or equal to 1", "(found 0)"),
    ),
    "stored embeddings that may change nothing": (
        set_to("serving", {"max_storage_difference": 0}),
        ("serving.max_storage_difference", "greater than 0", "(found 0)"),
    ),
    "stored embeddings that may change everything": (
        set_to("serving", {"max_storage_difference": 1}),
        ("serving.max_storage_difference", "less than 1", "(found 1)"),
    ),
    "a canary with share 0.9": (
        set_to("serving", {"canary": {"share": 0.9}}),
        ("serving.canary.share", "less than or equal to 0.5", "(found 0.9)"),
    ),
    "a canary with share 0": (
        set_to("serving", {"canary": {"share": 0}}),
        ("serving.canary.share", "greater than 0", "(found 0)"),
    ),
    "a canary with false_alarms 0": (
        set_to("serving", {"canary": {"false_alarms": 0}}),
        ("serving.canary.false_alarms", "greater than 0", "(found 0)"),
    ),
    "a canary with false_alarms 0.5": (
        set_to("serving", {"canary": {"false_alarms": 0.5}}),
        ("serving.canary.false_alarms", "less than 0.5", "(found 0.5)"),
    ),
    "a canary with early_ratio 1": (
        set_to("serving", {"canary": {"early_ratio": 1}}),
        ("serving.canary.early_ratio", "greater than 1", "(found 1)"),
    ),
    "a canary with failures 0": (
        set_to("serving", {"canary": {"failures": 0}}),
        ("serving.canary.failures", "greater than 0", "(found 0)"),
    ),
    "a canary with failures 1": (
        set_to("serving", {"canary": {"failures": 1}}),
        ("serving.canary.failures", "less than 1", "(found 1)"),
    ),
    "a canary with slow_ms 0": (
        set_to("serving", {"canary": {"slow_ms": 0}}),
        ("serving.canary.slow_ms", "greater than 0", "(found 0)"),
    ),
    "a canary with slow_odds 0.5": (
        set_to("serving", {"canary": {"slow_odds": 0.5}}),
        ("serving.canary.slow_odds", "greater than or equal to 1", "(found 0.5)"),
    ),
    "a canary with low 0": (
        set_to("serving", {"canary": {"low": 0}}),
        ("serving.canary.low", "greater than 0", "(found 0)"),
    ),
    "a canary with low 1": (
        set_to("serving", {"canary": {"low": 1}}),
        ("serving.canary.low", "less than 1", "(found 1)"),
    ),
    "a canary with high 1": (
        set_to("serving", {"canary": {"high": 1}}),
        ("serving.canary.high", "greater than 1", "(found 1)"),
    ),
    "a canary with margin -1": (
        set_to("serving", {"canary": {"margin": -1}}),
        ("serving.canary.margin", "greater than or equal to 0", "(found -1)"),
    ),
    "embeddings of no known storage": (
        set_to("serving", {"embedding_storage": "int4"}),
        ("serving.embedding_storage", "'fp32', 'fp16' or 'int8'", "(found 'int4')"),
    ),
    "a ranking score without terms": (set_to("serving", {"score": []}), ("serving.score", "at least 1 item")),
    "a ranking score of no task": (
        set_to("serving", {"score": [{"task": "sale"}]}),
        ("`serving.score` names 'sale', which is no task; use click, order",),
    ),
    "a ranking score of nothing": (
        set_to("serving", {"score": [{"task": "click", "weight": 0}]}),
        ("the term of 'click' has weight 0: remove it",),
    ),
    "a ranking score with a term twice": (
        set_to("serving", {"score": [{"task": "click"}, {"task": "click", "weight": 2}]}),
        ("two terms of 'click' with the same bid: add their weights up",),
    ),
    "a ranking score with a bid that is a category": (
        set_to("serving", {"score": [{"task": "click", "bid": "ad_id"}]}),
        ("the bid 'ad_id' is a feature that is not one number; name another",),
    ),
    "a ranking score with a bid that is another field": (
        set_to("serving", {"score": [{"task": "click", "bid": "ts"}]}),
        ("the bid 'ts' is another field of a request",),
    ),
    "a ranking score beside a task of its name": (
        lambda c: (
            set_to("tasks.0.name", "ranking_score")(c),
            set_to("tasks.1.parent", "ranking_score")(c),
            set_to("tasks.1.window_from", "ranking_score")(c),
            set_to("features.history.0.task", "ranking_score")(c),
            set_to("serving", {"score": [{"task": "order"}]})(c),
        ),
        ("is called 'ranking_score' beside the tasks: give the task of that name another",),
    ),
    "candidates that differ in nothing": (
        set_to("serving", {"candidate_features": []}),
        ("serving.candidate_features", "at least 1 item"),
    ),
    "candidates that differ in no feature": (
        set_to("serving", {"candidate_features": ["prise"]}),
        ("`serving.candidate_features` names 'prise', which is no feature; did you mean 'price'?",),
    ),
    "candidates that differ twice in a feature": (
        set_to("serving", {"candidate_features": ["price", "price"]}),
        ("`serving.candidate_features` names 'price' twice",),
    ),
    "candidates without their past": (
        set_to("serving", {"candidate_features": ["ad_id"]}),
        ("names 'ad_id' and not history feature 'ctr_7d', which is that of its key 'ad_id': name both",),
    ),
    "candidates with events of their own": (
        lambda c: (
            c["features"]["history"].append(
                {"name": "recent", "kind": "sequence", "key": "ad_id", "events": ["click"], "item": "ad_id"}
            ),
            set_to("model", {"sequences": ["target_attention"]})(c),
            set_to("serving", {"candidate_features": ["ad_id", "ctr_7d"]})(c),
        ),
        ("names 'ad_id', the key of the list of events 'recent', which all candidates share",),
    ),
    "candidates with a list of events": (
        lambda c: (
            c["features"]["history"].append(
                {"name": "recent", "kind": "sequence", "key": "user", "events": ["click"], "item": "ad_id"}
            ),
            set_to("model", {"sequences": ["target_attention"]})(c),
            set_to("serving", {"candidate_features": ["recent"]})(c),
        ),
        ("names 'recent', a list of events: one is read once for all candidates; remove it",),
    ),
    "better than the position by how much": (
        set_to("quality.better_than_position", 0.1),
        ("quality.better_than_position", "(found 0.1)"),
    ),
    "smoothing of another loss": (
        lambda c: (
            set_to("training.label_smoothing", 0.1)(c),
            set_to("tasks.1.objective", {"kind": "binary", "loss": "dfm_weibull"})(c),
        ),
        ("`training.label_smoothing` is of the binary cross-entropy", "trains order: remove one of both"),
    ),
    "a delayed loss for cases that are undecided": (
        lambda c: (
            set_to("tasks.0.label", {"time_column": "a", "closed_by": ["b"]})(c),
            set_to("tasks.0.objective", {"kind": "binary", "loss": "fsiw"})(c),
        ),
        ("tasks.0: a loss that learns from open labels takes silence for `not yet`", "binary_cross_entropy"),
    ),
    "offsets by no feature": (
        set_to("calibration", {"kind": "platt", "offsets_by": "advertiser"}),
        ("`calibration.offsets_by` names 'advertiser', which is no feature; use one of ad_id, hour",),
    ),
    "offsets by a number": (
        set_to("calibration", {"kind": "platt", "offsets_by": "price"}),
        ("`calibration.offsets_by` names 'price', which is a number; use one of ad_id, hour",),
    ),
    "offsets by a user": (
        lambda c: (
            c["features"]["categorical"].append({"name": "who", "column": "user_id"}),
            set_to("calibration", {"kind": "cross_validated", "offsets_by": "who"})(c),
        ),
        ("'who', which reads column 'user_id', an id (`impression.user`)", "one person or row; use one of ad_id, hour"),
    ),
    "offsets by an impression": (
        lambda c: (
            set_to("features.categorical.0.column", "impression_id")(c),
            set_to("calibration", {"kind": "platt", "offsets_by": "ad_id"})(c),
        ),
        ("'ad_id', which reads column 'impression_id', an id (`impression.id`)", "use one of hour"),
    ),
    "offsets by a user of a side table": (
        lambda c: (
            set_to(
                "source.tables",
                [
                    {
                        "name": "people",
                        "paths": ["people.csv"],
                        "key": "who",
                        "impression_column": "user_id",
                        "valid_from": None,
                    }
                ],
            )(c),
            c["features"]["categorical"].append({"name": "person", "column": "people.who"}),
            set_to("calibration", {"kind": "platt", "offsets_by": "person"})(c),
        ),
        ("'person', which reads column 'people.who', an id (`impression.user`)",),
    ),
    "offsets by the key of a history": (
        set_to("calibration", {"kind": "platt", "offsets_by": "user"}),
        ("names 'user', the key of a person", "use one of ad_id, hour"),
    ),
    "offsets by what is made of the past": (
        set_to("calibration", {"kind": "platt", "offsets_by": "ctr_7d"}),
        ("names 'ctr_7d', which is made of the past",),
    ),
    "offsets by a place of a sequence": (
        lambda c: (
            c["features"]["history"].append(
                {"name": "seen", "kind": "sequence", "key": "user", "item": "ad_id", "days": 7, "length": 2}
            ),
            set_to("calibration", {"kind": "platt", "offsets_by": "seen_1"})(c),
        ),
        ("names 'seen_1', which is made of the past",),
    ),
    "offsets by a list": (
        lambda c: (
            c["features"]["categorical"].append({"name": "tags", "list": {}}),
            set_to("calibration", {"kind": "platt", "offsets_by": "tags"})(c),
        ),
        ("names 'tags', which holds lists: an impression has several of its values; use one of ad_id, hour",),
    ),
    "offsets of a candidate": (
        set_to("calibration", {"kind": "cross_validated", "candidates": [{"kind": "platt", "offsets_by": "ad_id"}]}),
        ("calibration: candidates: 'platt' has `offsets_by`", "move it out of `candidates`, beside it"),
    ),
    "offsets without a category": (
        lambda c: (
            set_to("features", {"dense": [{"name": "price"}]})(c),
            set_to("calibration", {"kind": "identity", "offsets_by": "price"})(c),
        ),
        ("names 'price', which is a number; declare one under `features.categorical`",),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_message_names_field_value_and_remedy(case: str) -> None:
    require_message(*CASES[case])


def test_offsets_by_a_category_are_read_and_stay_out_of_specs_without_them() -> None:
    content = copy.deepcopy(GOOD)
    for name in ("ad_id", "hour"):
        content["calibration"] = {"kind": "cross_validated", "candidates": ["platt", "beta"], "offsets_by": name}
        assert parse_spec(yaml.safe_dump(content), "shop.yaml").calibration.offsets_by == name
    content["calibration"] = "isotonic"
    dumped = parse_spec(yaml.safe_dump(content), "shop.yaml").model_dump(mode="json")["calibration"]
    assert dumped == {"kind": "isotonic", "min_positives": 200}
