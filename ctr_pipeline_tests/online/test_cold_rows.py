"""New ids in the log: which rows had one, whose embedding it had, and how often, beside the days before and the training."""

from datetime import date
from typing import Any

import numpy as np
import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from ctr_pipeline.features.input_profile import profile_inputs
from ctr_pipeline.features.layout import FromTime, IdColumn, Layout, ParentMean, Pooled
from ctr_pipeline.online.cold_rows import COLD, COLD_PARENTS, cold_shares, with_cold_rows
from ctr_pipeline.online.logged_rows import SERVING_LOG_SCHEMA, merged_rows, rows_of
from ctr_pipeline.online.skew_findings import DayReport
from ctr_pipeline.online.skew_page import skew_page
from ctr_pipeline.online.skew_plots import report_plots
from ctr_pipeline.orchestration.checks.definition import checks_of
from ctr_pipeline.orchestration.checks.skew import SkewEvidence

DAY, BEFORE = date(2026, 1, 2), date(2026, 1, 1)
HOUR_US = 3_600_000_000
LAYOUT = Layout(
    numeric=(),
    ids=(
        IdColumn("tags", "categorical", 9, 4, pooled=Pooled(2, "mean", "last")),
        IdColumn("ad", "categorical", 9, 4, cold_start=ParentMean("shop", 10.0)),
        IdColumn("shop", "categorical", 9, 4),
        IdColumn("hour", "contextual", 9, 4, from_time=FromTime("hour", "UTC")),
        IdColumn("last_ad_1", "history", 9, 4),
    ),
    tasks=("click",),
    parents=(-1,),
)
OTHER = Layout(numeric=(), ids=(IdColumn("shop", "categorical", 9, 4),), tasks=("click",), parents=(-1,))
PROFILE = profile_inputs(
    LAYOUT, np.zeros((40, 0), np.float32), np.tile([[2, 2, 1, 3, 2, 2], [2, 2, 4, 3, 2, 2]], (20, 1)).astype(np.int32),
    np.arange(40), {},
)  # fmt: skip


def log(models: list[str], ids: list[list[int]], days: list[date] | None = None) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "day": days or [DAY] * len(ids),
            "ts": [n * HOUR_US for n in range(len(ids))],
            "model_sha": models,
            "ids": pl.Series(ids, dtype=pl.List(pl.Int32)),
        }
    )


def test_the_log_names_new_ids_and_their_parents() -> None:
    # The list, the hour and the past have unknown values too: they are no new ids of the request.
    rows = [[1, 1, 1, 3, 1, 1], [2, 2, 1, 1, 2, 2], [2, 2, 4, 5, 2, 2], [2, 2, 0, 1, 2, 2], [1], [7]]
    found = with_cold_rows(log(["a"] * 4 + ["b", "gone"], rows), {"a": LAYOUT, "b": OTHER})
    assert found[COLD].to_list() == [["ad"], ["ad", "shop"], [], ["shop"], ["shop"], None]
    assert found[COLD_PARENTS].to_list() == [["shop"], ["shop", None], [], [None], [None], None]
    assert found.drop(COLD, COLD_PARENTS).equals(log(["a"] * 4 + ["b", "gone"], rows))


@given(ids=st.lists(st.lists(st.integers(-1, 8), min_size=6, max_size=6), max_size=20))
def test_they_are_the_unknown_rows_of_the_categories(ids: list[list[int]]) -> None:
    found = with_cold_rows(log(["a"] * len(ids), ids), {"a": LAYOUT})
    expected = [[name for name, at in (("ad", 2), ("shop", 3)) if row[at] == 1] for row in ids]
    assert found[COLD].to_list() == expected


def test_a_log_of_before_is_filled_and_rows_of_a_model_that_is_gone_keep_theirs() -> None:
    stored = rows_of([], "").drop(COLD, COLD_PARENTS)
    assert merged_rows(stored, rows_of([], "")).schema == pl.Schema(SERVING_LOG_SCHEMA)
    first = with_cold_rows(log(["a", "b"], [[2, 2, 1, 1, 2, 2], [1]]), {"a": LAYOUT, "b": OTHER})
    again = with_cold_rows(first, {"b": OTHER})
    assert again.equals(first)


def shares() -> Any:
    ids = [[2, 2, 1, 3, 2, 2], [2, 2, 4, 3, 2, 2], [2, 2, 4, 3, 2, 2], [2, 2, 4, 1, 2, 2], [1], [2]]
    rows = log(["a"] * 4 + ["b", "b"], ids, [BEFORE, BEFORE, DAY, DAY, DAY, DAY])
    layouts = {"a": LAYOUT, "b": OTHER}
    return cold_shares(with_cold_rows(rows, layouts), DAY, layouts, {"a": PROFILE, "b": None})


def test_shares_by_day_and_hour_beside_the_training() -> None:
    ad, shop = shares()
    assert (ad.feature, ad.parent, ad.rows, ad.training) == ("ad", "shop", 0, 0.5)
    assert (ad.days, ad.hours) == ({BEFORE: 0.5, DAY: 0.0}, {2: 0.0, 3: 0.0})
    assert (shop.feature, shop.parent, shop.rows) == ("shop", None, 2)
    assert (shop.days, shop.hours) == ({BEFORE: 0.0, DAY: 0.5}, {2: 0.0, 3: 1.0, 4: 1.0, 5: 0.0})


def test_the_page_and_the_check_show_them() -> None:
    report = DayReport(day=DAY, cold=shares())
    page = skew_page(report, report_plots(report))
    row = '<td>ad</td><td>the mean of the same shop</td><td class="number">50.00%</td><td class="number">50.00%</td>'
    assert row in page
    assert page.count('alt="new_ids"') == 1
    [check] = [check for check in checks_of("skew_report") if check.name == "distribution"]
    [first, second] = check.evaluate(SkewEvidence([report])).metadata["new_ids"].records
    expected = {"feature": "ad", "parent": "shop", "rows": "0.00%", "days_before": "50.00%", "training": "50.00%"}
    assert dict(first.data) == expected
    assert dict(second.data)["rows"] == "50.00%"


def test_nothing_is_shown_where_no_model_says_anything() -> None:
    rows = log(["gone"], [[1]]).with_columns(pl.lit(None, pl.List(pl.String)).alias(COLD))
    assert cold_shares(rows, DAY, {}, {}) == ()
    assert "new ids" not in skew_page(DayReport(day=DAY), {})
