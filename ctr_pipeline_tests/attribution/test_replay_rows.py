"""Rows are matched by impression, chosen alike on both sides, and read back from packed arrays."""

from dataclasses import replace

import numpy as np
import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from ctr_pipeline.attribution.decoded_values import decoded_values
from ctr_pipeline.attribution.replay_rows import TestKeys, chosen_rows, match_rows
from ctr_pipeline_tests.attribution.made_up_sides import LISTED, rows, side


def keys(impressions: list[str | None], ts: list[int] | None = None, position: list[int] | None = None) -> TestKeys:
    count = len(impressions)
    return TestKeys(
        impressions=pl.Series(impressions, dtype=pl.String),
        ts=np.array(range(count) if ts is None else ts, np.int64),
        position=np.array([0] * count if position is None else position, np.int16),
        settled=np.ones(count, np.bool_),
    )


@given(st.lists(st.integers(0, 12), max_size=12), st.lists(st.integers(0, 12), max_size=12))
def test_rows_match_where_an_impression_is_alone_on_both_sides(old: list[int], new: list[int]) -> None:
    sides = [
        keys([f"i{n}" for n in own], ts=[100 * at + n for n in range(len(own))]) for at, own in enumerate((old, new), 1)
    ]
    found = match_rows(*sides)
    alone = [n for n in new if new.count(n) == 1 and old.count(n) == 1]
    assert [new[at] for at in found.new] == alone
    assert [old[at] for at in found.old] == alone
    assert found.how == ("impression" if alone else "not matched")


def test_under_another_key_rows_match_by_time_and_position() -> None:
    old = keys(["a", "b", "c", "d"], ts=[1, 1, 2, 3], position=[1, 2, 1, 1])
    new = keys(["v", "w", "x", "y", "z"], ts=[1, 1, 2, 2, 9], position=[2, 1, 1, 1, 1])
    found = match_rows(old, new)
    assert found.how == "time and position"
    assert list(zip(found.old, found.new, strict=True)) == [(1, 0), (0, 1)]
    assert match_rows(keys([None, None], ts=[1, 2]), keys([None], ts=[2])).how == "time and position"


def test_both_sides_choose_the_same_rows_with_a_settled_label() -> None:
    draw = np.random.default_rng(1)
    ts, position = draw.integers(0, 10**9, 500).tolist(), draw.integers(1, 5, 500).tolist()
    one = replace(keys([f"i{n}" for n in range(500)], ts, position), settled=np.arange(500) % 10 > 0)
    order = draw.permutation(500)
    other = keys([f"k{n}" for n in range(500)], [ts[n] for n in order], [position[n] for n in order])
    chosen = chosen_rows(one, np.arange(500), 50, 7)
    assert len(chosen) == 50
    assert one.settled[chosen].all()
    assert (np.diff(chosen) > 0).all()
    settled_there = np.flatnonzero(one.settled[order])
    same = chosen_rows(other, settled_there, 50, 7)
    assert {ts[n] for n in chosen} == {int(other.ts[settled_there[n]]) for n in same}
    assert set(chosen_rows(one, np.arange(500), 50, 8)) != set(chosen)


def test_packed_rows_read_back_give_the_same_inputs() -> None:
    one = side(1, {"sequences": [{"kind": "target_attention"}]}, LISTED)
    own = rows(300, 1, layout=LISTED)
    encoded = one.encode(own)
    values = decoded_values(one.layout, one.vocabulary, encoded.numeric, encoded.ids)
    again = one.encode(replace(own, values=values))
    np.testing.assert_array_equal(again.ids, encoded.ids)
    np.testing.assert_array_equal(again.numeric, encoded.numeric)
    # Another vocabulary finds the same texts, but for those that were unknown.
    other = side(2, layout=LISTED, shuffled=4)
    known = encoded.ids[:, 0] != 1
    np.testing.assert_array_equal(
        other.encode(replace(own, values=values)).ids[known, 0], other.encode(own).ids[known, 0]
    )
    assert (other.encode(replace(own, values=values)).ids[~known, 0] == 1).all()
