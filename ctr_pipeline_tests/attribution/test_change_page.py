"""The page about a changed model says of which rows its figures are."""

import json
import re
from dataclasses import replace
from typing import Any

import polars as pl
import pytest

from ctr_pipeline.attribution.change_page import change_page
from ctr_pipeline.attribution.compare_models import compare_models
from ctr_pipeline.attribution.differences import compare
from ctr_pipeline.attribution.entropy_change import entropy_changes
from ctr_pipeline.attribution.explained_change import ExplainedChange
from ctr_pipeline.attribution.model_change import ModelChange
from ctr_pipeline.attribution.ranked_causes import ranked_causes
from ctr_pipeline.attribution.replay_rows import Replay
from ctr_pipeline.attribution.trained_side import ReplayRows, TrainedSide
from ctr_pipeline_tests.attribution.made_up_retrains import retrain
from ctr_pipeline_tests.attribution.made_up_retrains import rows as impressions
from ctr_pipeline_tests.attribution.made_up_sides import rows, side

SAME = "Both pipelines have the same values, as far as the models read them: all of the change is the model's."


def measured(old: TrainedSide, new: TrainedSide, before: ReplayRows, after: ReplayRows, **of: Any) -> ModelChange:
    given = Replay(old=old, new=new, how="impression", old_matched=before, new_matched=after, old_rows=before, new_rows=after, **of)  # fmt: skip
    return compare_models(given, replicates=40, examined_rows=150, attributed_rows=20)


def page_of(model: ModelChange) -> str:
    state = retrain(impressions(600))
    compared, entropies = compare(state, state), entropy_changes(state, state, ["impression_id"], seed=0)
    found = ExplainedChange(
        old=state, new=state, compared=compared, entropies=entropies, causes=ranked_causes(compared, entropies, {}), model=model, notes=()
    )  # fmt: skip
    return change_page(json.loads(json.dumps(found.to_json(), allow_nan=False)))


def test_where_both_pipelines_have_the_same_values_one_sentence_says_so() -> None:
    old, new = side(1), side(2)
    given = rows(600, 3, old)
    model = measured(old, new, given, given)
    assert (model.matched, model.of_matched, model.examined) == (600, 600, 150)
    text = page_of(model)
    assert text.count(SAME) == 1
    assert "on all 600 test rows of both with a label" in text
    assert "old data" not in text
    # Only what takes long is measured on a part of the rows, and says so.
    assert text.count("On a sample of 150 rows.</p>") == 2


def test_tables_say_of_how_many_rows_they_are_and_how_sure_they_are() -> None:
    old, new = side(1), side(2)
    after = rows(600, 3, old)
    before = replace(after, values=after.values.with_columns(pl.col("price") * 100))
    model = measured(old, new, before, after, of_matched=7_000, of_old=8_000, of_new=9_000)
    text = page_of(model)
    assert SAME not in text
    assert "on a sample of 600 of 7,000 test rows of both" in text
    assert "on a sample of 600 of 8,000 test rows before, on a sample of 600 of 9,000 test rows now" in text
    two = model.tasks["click"].pipelines
    assert two is not None
    for ne in (two.old_on_old, two.old_on_new, two.new_on_old, two.new_on_new):
        assert f"{ne.value:.4f} [{ne.low:.4f}, {ne.high:.4f}]" in text
    assert re.search(r"model [+-]\d", text)


@pytest.mark.parametrize("examined", [150, 600])
def test_all_rows_decide_the_change_in_ne_whatever_is_examined(examined: int) -> None:
    old, new = side(1), side(2)
    given = rows(600, 3, old)
    replay = Replay(old=old, new=new, how="impression", old_matched=given, new_matched=given, old_rows=given, new_rows=given)  # fmt: skip
    few = compare_models(replay, replicates=40, examined_rows=examined, attributed_rows=0).tasks["click"]
    assert few.pipelines is not None
    assert few.ne is not None
    assert few.pipelines == few.periods
    assert few.ne.value == pytest.approx(few.pipelines.total.value, abs=1e-12)
    assert few.rows == few.pipelines.rows_new
