"""Rows of forgotten users are left out when a log is read, and counted; nobody else's are."""

import hashlib
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from ctr_pipeline.sources import Pseudonymiser, ReadResult, read_impressions
from ctr_pipeline.sources.forgotten import FORGOTTEN, digests, leave_out, user_columns

Maker = Callable[..., Any]
SCOPE = (date(2026, 1, 1), date(2026, 1, 31))
USERS = [f"user-{n}" for n in range(5)]


def of(pseudonymiser: Pseudonymiser, text: str) -> str:
    return str(pl.DataFrame({"id": [text]}).select(pseudonymiser.expr("id")).item())


@pytest.fixture(scope="module")
def read(
    make_spec: Maker, make_log: Maker, pseudonymiser: Pseudonymiser, tmp_path_factory: pytest.TempPathFactory
) -> ReadResult:
    """A log with broken rows and a row without a user."""
    who = [None if n == 7 else f"user-{n % 5}" for n in range(24)]
    prices = [-1.0 if n in (3, 4) else float(n) for n in range(24)]
    path: Path = tmp_path_factory.mktemp("log") / "log.parquet"
    make_log(who=who, price=prices).write_parquet(path)
    return read_impressions(make_spec(), [path], *SCOPE, pseudonymiser, SCOPE[0])


def test_a_digest_is_that_of_the_hash() -> None:
    hashed = "0123456789abcdef" * 2
    assert digests([hashed]) == [hashlib.sha256(hashed.encode()).hexdigest()[:32]]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(chosen=st.sets(st.sampled_from([*USERS, "stranger"])), rows=st.sets(st.integers(0, 23)))
def test_every_row_is_still_accounted_for_and_others_are_untouched(
    read: ReadResult, pseudonymiser: Pseudonymiser, chosen: set[str], rows: set[int]
) -> None:
    hashes = {of(pseudonymiser, user) for user in chosen}
    ids = {of(pseudonymiser, f"imp-{n}") for n in rows}
    remaining, left_out = leave_out(read, ["user"], digests(sorted(hashes)), digests(sorted(ids)))
    gone = (pl.col("user").is_in(hashes) | pl.col("impression_id").is_in(ids)).fill_null(False)
    assert_frame_equal(remaining.kept, read.kept.filter(~gone))
    assert_frame_equal(left_out, read.kept.filter(gone))
    assert remaining.rows_in == remaining.kept.height + remaining.quarantined.height + remaining.ignored
    assert remaining.rows_in_by_day == read.rows_in_by_day
    assert remaining.notices.get(FORGOTTEN, 0) == left_out.height
    assert_frame_equal(remaining.quarantined, read.quarantined)


def test_rows_of_a_table_without_users_go_by_their_impression(read: ReadResult, pseudonymiser: Pseudonymiser) -> None:
    hashed = of(pseudonymiser, USERS[0])
    remaining, left_out = leave_out(read, [], digests([hashed]), [])
    assert remaining is read
    assert left_out.is_empty()


def test_features_made_of_the_users_column_hold_the_user_too(make_spec: Maker) -> None:
    features = {"categorical": [{"name": "item"}, {"name": "visitor", "column": "who"}, {"name": "mail"}]}
    assert user_columns(make_spec(features=features, privacy={"pseudonymise": ["mail"]})) == ["user", "visitor"]
    anonymous = {"id": "id", "time": "at"}
    spec = make_spec(features=features, impression=anonymous, privacy={"pseudonymise": ["mail"]})
    assert user_columns(spec) == ["user", "mail"]
