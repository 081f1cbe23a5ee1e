"""What encodings of numbers take from the training rows: edges, means, and which numbers have which."""

from datetime import date

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctr_pipeline.features import Encoding, fit_layout
from ctr_pipeline.features.number_encodings import fit_encoding
from ctr_pipeline.spec import parse_spec
from ctr_pipeline.spec.encodings import Bucket, Cyclic, PiecewiseLinear, Standard

SPEC = """
version: 1
name: small
source: {{impressions: {{paths: [x.parquet]}}}}
impression: {{id: i, time: t, user: u}}
features:
  {default}
  dense: [{{name: price{own}}}, {{name: v, width: 2}}]
  categorical: [{{name: ad}}]
  contextual: [{{name: hour, type: numeric, encoding: {{kind: cyclic, period: 24}}}}]
  history:
    - {{name: seen, kind: count, key: ad, days: 3}}
    - {{name: rate, kind: rate, key: ad, task: click, days: 3, encoding: bucket}}
    - {{name: last, kind: sequence, key: ad, item: ad, length: 2, encoding: {{kind: piecewise_linear, bins: 2}}}}
tasks: [{{name: click, window: 0s, label: {{column: y}}}}]
"""
values = st.floats(width=32, allow_nan=False, allow_infinity=False)
many = st.lists(st.one_of(values, st.sampled_from([0.0, 1.0, -2.0])), max_size=60)


def ascending(found: list[float]) -> np.ndarray:
    return np.sort(np.array(found, dtype=np.float32) + np.float32(0))


@settings(deadline=None, max_examples=150)
@given(many, st.integers(2, 20))
def test_edges_are_quantiles_and_means_those_of_the_inputs(found: list[float], bins: int) -> None:
    present = ascending(found)
    encoding = fit_encoding(PiecewiseLinear(bins=bins), present)
    wide = present.astype(np.float64)
    if encoding is None:
        assert not present.size or wide[-1] - wide[0] < np.finfo(np.float32).tiny
        return
    edges = np.array(encoding.edges)
    assert len(edges) <= bins + 1
    assert set(edges) <= set(wide)
    assert edges[0] == wide[0]
    assert (np.diff(edges) >= np.finfo(np.float32).tiny).all()
    exact = np.unique(np.quantile(wide, np.arange(bins + 1) / bins, method="lower"))
    assert np.isin(edges, exact).all()
    parts = np.clip((wide[:, None] - edges[:-1]) / np.diff(edges), 0, 1)
    assert encoding.means == pytest.approx(parts.mean(axis=0).tolist(), rel=1e-9, abs=1e-12)


@settings(deadline=None, max_examples=150)
@given(many, st.integers(2, 20))
def test_no_bucket_is_empty_and_means_are_shares(found: list[float], bins: int) -> None:
    present = ascending(found)
    encoding = fit_encoding(Bucket(bins=bins), present)
    if encoding is None:
        return
    places = np.searchsorted(np.array(encoding.edges), present.astype(np.float64), side="right")
    shares = np.bincount(places, minlength=len(encoding.edges) + 1) / present.size
    assert len(encoding.edges) < bins
    assert shares.min() > 0
    assert encoding.means == pytest.approx(shares.tolist())


def test_known_edges() -> None:
    present = np.arange(33, dtype=np.float32)
    assert fit_encoding(PiecewiseLinear(bins=4), present) == Encoding(
        "piecewise_linear", (0.0, 8.0, 16.0, 24.0, 32.0), pytest.approx([28.5 / 33, 20.5 / 33, 12.5 / 33, 4.5 / 33])
    )  # fmt: skip
    assert fit_encoding(Bucket(bins=4), present) == Encoding("bucket", (8.0, 16.0, 24.0), (8 / 33, 8 / 33, 8 / 33, 9 / 33))  # fmt: skip
    yes_or_no = np.array([0.0] * 6 + [1.0] * 4, dtype=np.float32)
    assert fit_encoding(Bucket(), yes_or_no) == Encoding("bucket", (1.0,), (0.6, 0.4))
    assert fit_encoding(Cyclic(period=7), yes_or_no) == Encoding("cyclic", period=7.0)
    assert fit_encoding(Standard(), yes_or_no) is None


@pytest.mark.parametrize("section", [PiecewiseLinear(), Bucket()])
@pytest.mark.parametrize("found", [[], [3.0], [3.0] * 50, [0.0, 1e-45]])
def test_a_constant_is_standardised(section: PiecewiseLinear | Bucket, found: list[float]) -> None:
    assert fit_encoding(section, np.array(found, dtype=np.float32)) is None


def rows() -> pl.DataFrame:
    generator = np.random.default_rng(0)
    hours = generator.integers(0, 24, 200)
    numbers = {name: generator.exponential(size=200) for name in ("price", "seen", "rate", "last_1_age", "last_2_age")}
    return pl.DataFrame(
        {
            "day": [date(2026, 1, 1)] * 200, "ts": [0] * 200, "ad": ["a"] * 200, "last_1": ["a"] * 200, "last_2": ["a"] * 200,
            "hour": hours, "v": pl.Series(generator.normal(size=(200, 2)).tolist(), dtype=pl.List(pl.Float64)), **numbers,
        }
    ).with_columns(price=pl.when(pl.int_range(200) % 5 == 0).then(None).otherwise("price"))  # fmt: skip


def kinds(default: str = "", own: str = "") -> dict[str, tuple[str, int] | None]:
    layout, _ = fit_layout(parse_spec(SPEC.format(default=default, own=own), "small.yaml"), rows().lazy())
    return {c.name: c.encoding and (c.encoding.kind, len(c.encoding.means)) for c in layout.numeric}


def test_a_number_has_its_own_encoding_or_that_of_the_section() -> None:
    own: dict[str, tuple[str, int] | None] = {
        "v[0]": None, "v[1]": None, "hour": ("cyclic", 0), "rate": ("bucket", 16),
        "last_1_age": ("piecewise_linear", 2), "last_2_age": ("piecewise_linear", 2),
    }  # fmt: skip
    assert kinds() == own | {"price": ("piecewise_linear", 16), "seen": ("piecewise_linear", 16)}
    assert kinds("encoding: standard") == own | {"price": None, "seen": None}
    narrow = kinds("encoding: {kind: bucket, bins: 8}", ", encoding: standard")
    assert narrow == own | {"price": None, "seen": ("bucket", 8)}


def test_rows_in_any_order_and_signs_of_zero_give_one_layout() -> None:
    spec = parse_spec(SPEC.format(default="", own=""), "small.yaml")
    zeros = rows().with_columns(price=pl.when(pl.int_range(200) % 2 == 0).then(0.0).otherwise(-0.0))
    zeros = zeros.with_columns(price=pl.when(pl.int_range(200) % 7 == 0).then(-3.0).otherwise("price"))
    texts = {
        fit_layout(spec, zeros.sample(fraction=1, shuffle=True, seed=seed).lazy())[0].to_json() for seed in range(8)
    }
    assert len(texts) == 1
    assert "-0.0," not in texts.pop()


def test_missing_values_have_no_part_in_edges_and_means() -> None:
    spec = parse_spec(SPEC.format(default="", own=""), "small.yaml")
    with_missing, _ = fit_layout(spec, rows().lazy())
    without, _ = fit_layout(spec, rows().drop_nulls().lazy())
    assert with_missing.numeric[0].encoding == without.numeric[0].encoding
