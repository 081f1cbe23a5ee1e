from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from ctr_pipeline.features import encode_ids, fit_layout, numeric_matrix
from ctr_pipeline.features.layout import Frequency
from ctr_pipeline.spec import Spec, load_spec, parse_spec

SPEC = """
version: 1
name: small
source: {{impressions: {{paths: [x.parquet]}}}}
impression: {{id: i, time: t, user: u}}
features:
  dense:
    - {{name: price, transform: signed_log1p}}
    - {{name: stock, missing: {missing}}}
  categorical: [{{name: ad, min_count: 2}}]
  contextual:
    - {{name: hour, type: categorical, min_count: 1, embedding_dim: 3}}
    - {{name: depth, type: numeric}}
  history: [{{name: seen, kind: count, key: ad, days: 3}}]
tasks:
  - {{name: click, window: 0s, label: {{column: y}}}}
  - {{name: buy, parent: click, window: 0s, label: {{column: z}}}}
model: {{embedding_dim: 5}}
"""
DAY_1, DAY_2 = date(2026, 1, 1), date(2026, 1, 2)


def a_spec(missing: str = "{}") -> Spec:
    return parse_spec(SPEC.format(missing=missing), "small.yaml")


def rows(**columns: list[Any]) -> pl.DataFrame:
    base: dict[str, list[Any]] = {
        "day": [DAY_2, DAY_1, DAY_1, DAY_1, DAY_2],
        "ts": [0] * 5,
        "price": [0.0, 1.0, None, 7.0, -3.0],
        "stock": [None, 1.0, 2.0, 6.0, None],
        "ad": ["b", "b", "c", None, "a"],
        "hour": ["9", "10", "10", "9", "9"],
        "depth": [4.0] * 5,
        "seen": [0.0, 0.0, 1.0, None, 3.0],
    }
    return pl.DataFrame(base | columns)


def test_layout_has_the_contracts_order() -> None:
    layout, _ = fit_layout(a_spec(), rows().lazy())
    assert [(c.name, c.group) for c in layout.numeric] == [
        ("price", "dense"),
        ("stock", "dense"),
        ("depth", "contextual"),
        ("seen", "history"),
    ]
    assert [(c.name, c.group, c.rows, c.dim) for c in layout.ids] == [
        ("ad", "categorical", 3, 5),
        ("hour", "contextual", 4, 3),
    ]
    assert (layout.tasks, layout.parents) == (("click", "buy"), (-1, 0))


def test_statistics_by_hand() -> None:
    price, stock, depth, seen = fit_layout(a_spec(), rows().lazy())[0].numeric
    # Median of 0, 1, 7, -3; then sign(x) · log(1 + |x|) of 0, 1, 0.5, 7, -3.
    transformed = [0.0, np.log(2), np.log(1.5), np.log(8), -np.log(4)]
    assert price.fill == 0.5
    assert price.mean == pytest.approx(np.mean(transformed), rel=1e-6)
    assert price.std == pytest.approx(np.std(transformed), rel=1e-6)
    assert (stock.fill, stock.mean, stock.transform) == (2.0, pytest.approx(2.6), "none")
    assert (depth.mean, depth.std) == (4.0, 1.0)
    assert (seen.fill, seen.transform, seen.indicator) == (0.5, "signed_log1p", True)


@pytest.mark.parametrize(
    ("missing", "fill", "indicator"),
    [
        ("{fill: mean}", 3.0, True),
        ("{fill: median, indicator: false}", 2.0, False),
        ("{fill: constant, value: -1}", -1.0, True),
    ],
)
def test_fill_is_what_the_spec_says(missing: str, fill: float, indicator: bool) -> None:
    stock = fit_layout(a_spec(missing), rows().lazy())[0].numeric[1]
    assert (stock.fill, stock.indicator) == (fill, indicator)


def test_a_column_without_values_is_harmless() -> None:
    empty = pl.Series([None] * 5, dtype=pl.Float64)
    layout, _ = fit_layout(a_spec(), rows().with_columns(price=empty, stock=pl.lit(float("inf"))).lazy())
    assert [(c.fill, c.mean, c.std) for c in layout.numeric[:2]] == [(0.0, 0.0, 1.0)] * 2


def test_vocabulary_is_ordered_by_count_first_time_and_key() -> None:
    _, vocabulary = fit_layout(a_spec(), rows().lazy())
    assert vocabulary.rows() == [
        ("ad", "b", 2, 2, DAY_1, DAY_2),
        ("hour", "9", 2, 3, DAY_1, DAY_2),
        ("hour", "10", 3, 2, DAY_1, DAY_1),
    ]
    ties = fit_layout(a_spec(), rows(ad=["z", "z", "y", "y", None]).lazy())[1]
    assert ties.filter(pl.col("feature") == "ad")["key"].to_list() == ["y", "z"]
    # The time of the first row decides before the text, which is a hash where it is an id.
    ties = fit_layout(a_spec(), rows(ad=["z", "z", "y", "y", None], ts=[9, 1, 2, 3, 4]).lazy())[1]
    assert ties.filter(pl.col("feature") == "ad")["key"].to_list() == ["z", "y"]


def with_frequency(of: str = "ad, min_count: 2") -> Spec:
    text = SPEC.replace(f"name: {of}", f"name: {of}, frequency: true")
    assert text != SPEC
    return parse_spec(text.format(missing="{}"), "small.yaml")


def test_frequency_by_hand() -> None:
    """Of ad twice b, which has rank 1, and once each a and c, which are rare and so have rank 2; a missing one not at all."""
    plain, vocabulary = fit_layout(a_spec(), rows().lazy())
    layout, same = fit_layout(with_frequency(), rows().lazy())
    ad, hour = layout.ids
    assert ad.frequency is not None
    assert ad.frequency.mean == pytest.approx(np.log(2) / 2, rel=1e-12)
    assert ad.frequency.std == pytest.approx(np.log(2) / 2, rel=1e-12)
    assert replace(ad, frequency=None) == plain.ids[0]
    assert (hour, layout.numeric) == (plain.ids[1], plain.numeric)
    assert vocabulary.equals(same)
    assert [column.frequency for column in plain.ids] == [None, None]
    # All rows with a value have one rank; no row has a value.
    for ads, mean in ((["b"] * 4 + [None], 0.0), (["p", "q", "r", None, "s"], 0.0), ([None] * 5, 0.0)):
        found = fit_layout(with_frequency(), rows(ad=pl.Series(ads, dtype=pl.String)).lazy())[0].ids[0].frequency  # type: ignore[arg-type]
        assert found == Frequency(mean, 1.0)


@pytest.mark.parametrize("seed", range(3))
def test_frequency_is_that_of_the_rows(seed: int) -> None:
    """Beside a loop over the rows: each value's rank among the values by count, those below min_count one beyond them."""
    draw = np.random.default_rng(seed)
    ads = [None if row % 9 == 0 else f"a{draw.zipf(1.4) % 50}" for row in range(400)]
    frame = pl.concat([rows()] * 80).with_columns(ad=pl.Series(ads))
    layout, _ = fit_layout(with_frequency(), frame.sample(fraction=1, shuffle=True, seed=seed).lazy())
    counts: dict[str, int] = {}
    for ad in ads:
        if ad is not None:
            counts[ad] = counts.get(ad, 0) + 1
    kept = sorted((ad for ad in counts if counts[ad] >= 2), key=lambda ad: (-counts[ad], ad))
    rank = {ad: place for place, ad in enumerate(kept, start=1)}
    logs = [np.log(rank.get(ad, len(kept) + 1)) for ad in ads if ad is not None]
    assert len(kept) < len(counts)
    found = layout.ids[0].frequency
    assert found is not None
    assert (found.mean, found.std) == (pytest.approx(np.mean(logs), rel=1e-12), pytest.approx(np.std(logs), rel=1e-12))


def test_what_the_past_lists_has_no_frequency() -> None:
    """The item of a sequence is that of another impression; only the feature itself has it."""
    text = SPEC.replace("min_count: 2", "min_count: 2, frequency: true")
    text = text.replace("{{name: seen,", "{{name: last, kind: sequence, key: ad, item: ad, length: 1}}, {{name: seen,")
    with_past = rows(last_1=["b", None, "b", None, None], last_1_age=[1.0, None, 2.0, None, None])
    layout, _ = fit_layout(parse_spec(text.format(missing="{}"), "small.yaml"), with_past.lazy())
    assert {column.name: column.frequency is not None for column in layout.ids} == {"ad": True, "hour": False, "last_1": False}  # fmt: skip


def test_layout_holds_the_values_that_mean_a_missing_one() -> None:
    assert fit_layout(a_spec(), rows().lazy())[0].null_values == {}
    text = SPEC.replace("paths: [x.parquet]", "paths: [x.parquet], null_values: ['', NA, {{price: [-1], ad: [u]}}]")
    text = text.replace("model:", "privacy: {{pseudonymise: [ad]}}\nmodel:")
    layout, _ = fit_layout(parse_spec(text.format(missing="{}"), "small.yaml"), rows().lazy())
    assert layout.null_values == {"price": ("NA", "-1"), "stock": ("NA",), "hour": ("NA",), "depth": ("NA",)}


def test_ids_of_known_rare_new_and_missing_values() -> None:
    layout, vocabulary = fit_layout(a_spec(), rows().lazy())
    seen = pl.DataFrame({"ad": ["b", "a", "new", None, "b"], "hour": ["10", "9", "11", None, "9"]})
    ids = encode_ids(layout, vocabulary, seen)
    assert ids.dtype == np.int32
    assert ids.tolist() == [[2, 3], [1, 2], [1, 1], [0, 0], [2, 2]]


def test_every_id_stays_apart_above_what_float32_holds() -> None:
    layout, _ = fit_layout(a_spec(), rows().lazy())
    vocabulary = pl.DataFrame({"feature": "ad", "key": ["p", "q"], "row": [16_777_216, 16_777_217]})
    ids = encode_ids(layout, vocabulary, pl.DataFrame({"ad": ["q", "p"], "hour": ["1", "1"]}))
    assert ids[:, 0].tolist() == [16_777_217, 16_777_216]


def test_numbers_stay_raw_and_missing_is_nan() -> None:
    layout, _ = fit_layout(a_spec(), rows().lazy())
    matrix = numeric_matrix(layout, rows(stock=[None, float("nan"), float("-inf"), 6.0, 0.1]))
    assert matrix.dtype == np.float32
    np.testing.assert_array_equal(
        matrix[:, :2], np.array([[0, np.nan], [1, np.nan], [np.nan, np.nan], [7, 6], [-3, 0.1]], np.float32)
    )


def test_row_order_changes_nothing() -> None:
    many = pl.concat([rows(price=np.random.default_rng(seed).normal(size=5).tolist()) for seed in range(99)])
    layout, vocabulary = fit_layout(a_spec(), many.lazy())
    turned, same = fit_layout(a_spec(), many.sample(fraction=1, shuffle=True, seed=1).lazy())
    assert vocabulary.equals(same)
    assert layout == turned


def test_real_display_ads(shared_data: Path, project: Path) -> None:
    spec = load_spec(project / "specs" / "criteo.yaml")
    log = pl.read_parquet(shared_data / "criteo_display_16k.parquet").sort("row_order").head(8_000)
    numbers = [pl.col(f.source_column).cast(pl.Float64).alias(f.name) for f in spec.features.numeric]
    texts = [pl.col(f.source_column).alias(f.name) for f in spec.features.embedded]
    training = log.select(pl.lit(DAY_1).alias("day"), pl.lit(0).alias("ts"), *numbers, *texts)
    layout, vocabulary = fit_layout(spec, training.lazy())
    matrix, ids = numeric_matrix(layout, training), encode_ids(layout, vocabulary, training)
    for number, column in enumerate(layout.numeric):
        raw = training[column.name].to_numpy().astype(np.float64)
        assert column.fill == np.nanmedian(raw)
        filled = np.where(np.isnan(raw), column.fill, raw)
        assert column.mean == pytest.approx(np.mean(np.sign(filled) * np.log1p(np.abs(filled))), rel=1e-6)
        np.testing.assert_array_equal(matrix[:, number], raw.astype(np.float32))
    for number, (id_column, feature) in enumerate(zip(layout.ids, spec.features.embedded, strict=True)):
        counts = training[id_column.name].value_counts()
        frequent = counts.drop_nulls().filter(pl.col("count") >= feature.min_count)
        assert id_column.rows == 2 + frequent.height
        assert (ids[:, number] == 0).sum() == training[id_column.name].null_count()
        assert np.bincount(ids[:, number], minlength=id_column.rows)[2:].tolist() == sorted(
            frequent["count"].to_list(), reverse=True
        )
