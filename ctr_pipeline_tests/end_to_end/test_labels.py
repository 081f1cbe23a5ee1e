"""`ctr labels` on a real loan funnel, held against a replay of the raw log; and on small tables made by hand."""

import json
import subprocess
from collections import Counter
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from ctr_pipeline_tests.end_to_end.real_runs import REAL_LOG_KEY, RealRun

Ctr = Callable[..., "subprocess.CompletedProcess[str]"]
Case = dict[str, Any]

WINDOWS = {"A_PREACCEPTED": 3, "A_ACCEPTED": 14, "O_SENT_BACK": 21, "A_APPROVED": 21}
TASKS = ("preaccepted", "accepted", "papers_returned", "approved")
LOG_END = datetime(2011, 12, 15, tzinfo=UTC)
NEVER = datetime.max.replace(tzinfo=UTC)
CUT = datetime(2011, 12, 2, tzinfo=UTC)


@pytest.fixture
def loans(real_run: Callable[[str, str], RealRun], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Data root of a run on the loan log, under the key of that run."""
    monkeypatch.setenv("CTR_PSEUDONYM_KEY", REAL_LOG_KEY)
    return real_run("loan_funnel", "loan_funnel.parquet").data_root


@pytest.fixture(scope="module")
def cases(shared_data: Path) -> list[Case]:
    return pl.read_parquet(shared_data / "loan_funnel.parquet").to_dicts()


def replayed(case: Case, now: datetime) -> dict[str, str]:
    """State of each task of a case, from what the bank knew at ``now``, by the words of the spec."""
    submitted = case["A_SUBMITTED"]

    def seen(column: str) -> datetime | None:
        when = case[column]
        return when if when is not None and submitted <= when <= now else None

    closed = min((when for when in (seen("A_DECLINED"), seen("A_CANCELLED")) if when), default=NEVER)
    states: dict[str, str] = {}
    reached, parent_settled = True, NEVER
    for task, (column, days) in zip(TASKS, WINDOWS.items(), strict=True):
        when, end = seen(column), submitted + timedelta(days=days)
        after = when if when is not None and when > end else NEVER
        reached = reached and when is not None and when <= end
        # Decided by a closing, by a stage that came too late, or with the stage before; never by time alone.
        decided = min(closed, after, parent_settled)
        settled = max(end, decided) if decided is not NEVER else NEVER
        if reached:
            states[task], settled = "POSITIVE", NEVER
        elif settled <= now:
            states[task] = "OUT_OF_WINDOW" if after <= now else "NEGATIVE"
        else:
            states[task] = "CENSORED"
        parent_settled = settled if settled <= now else NEVER
    return states


@pytest.mark.parametrize("day", [date(2011, 10, 20), date(2011, 12, 1), None])
def test_states_and_completeness_are_those_of_the_raw_log(
    loans: Path, cases: list[Case], ctr: Ctr, tmp_path: Path, day: date | None
) -> None:
    now = LOG_END if day is None else datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(days=1)
    options = () if day is None else ("--as-of", day)
    done = ctr("labels", "--data-root", loans, *options, "--json", tmp_path / "labels.json")
    found = json.loads((tmp_path / "labels.json").read_text(encoding="utf-8"))
    shown = [case for case in cases if case["A_SUBMITTED"] <= now]
    then, today = [replayed(case, now) for case in shown], [replayed(case, LOG_END) for case in shown]
    assert found["impressions"] == len(shown)
    assert found["as_of"] == now.isoformat().replace("+00:00", "Z")
    for task in TASKS:
        counted = found["tasks"][task]
        assert {s: n for s, n in counted["states"].items() if n} == dict(Counter(states[task] for states in then))
        positives = sum(states[task] == "POSITIVE" for states in then)
        known_now = sum(states[task] == "POSITIVE" for states in today)
        assert (counted["positives"], counted["positives_known_now"]) == (positives, known_now)
        assert counted["completeness"] == pytest.approx(positives / known_now)
        assert f"{positives / known_now:.1%}" in done.stdout
    if day == date(2011, 12, 1):
        shares = [found["tasks"][task]["completeness"] for task in TASKS]
        assert shares == sorted(shares, reverse=True)
        assert shares[-1] < 0.9


def test_no_undecided_case_was_ever_labelled_negative(loans: Path, cases: list[Case], ctr: Ctr, tmp_path: Path) -> None:
    """A case that nobody had closed by the cut-off, and that had missed no stage, has no label anywhere."""
    undecided = next(
        case
        for case in cases
        if case["A_SUBMITTED"] < CUT - timedelta(days=30)
        and case["A_ACCEPTED"] is not None
        and all(case[column] is None or case[column] > LOG_END for column in ("O_SENT_BACK", "A_APPROVED"))
        and all(case[column] is None or case[column] > LOG_END for column in ("A_DECLINED", "A_CANCELLED"))
    )
    out = tmp_path / "one.json"
    done = ctr(
        "labels", "--data-root", loans, "--as-of", "2011-12-01", "--impression", undecided["case_id"], "--json", out
    )
    found = json.loads(out.read_text(encoding="utf-8"))
    for task in ("papers_returned", "approved"):
        [interval] = found["tasks"][task]
        assert (interval["state"], interval["value"], interval["until"]) == ("CENSORED", None, None)
        assert interval["elapsed_seconds"] == (LOG_END - undecided["A_SUBMITTED"]).total_seconds()
        assert found["label_as_of"]["tasks"][task]["value"] is None
        age = (CUT - undecided["A_SUBMITTED"]).total_seconds()
        assert found["label_as_of"]["tasks"][task]["elapsed_seconds"] == age
    # The id is hashed, and neither shown nor stored.
    assert undecided["case_id"] not in done.stdout + done.stderr + out.read_text(encoding="utf-8")
    again = ctr("labels", "--data-root", loans, "--impression-hash", found["impression"]["hash"])
    assert "CENSORED" in again.stdout


def test_what_cannot_be_answered_is_said_plainly(loans: Path, ctr: Ctr, tmp_path: Path) -> None:
    for options, message in [
        (("--as-of", "2012-01-15"), "the newest labels are made of what had arrived by 2011-12-15T00:00:00Z"),
        (("--impression", "no-such-case"), "no impression has the hash"),
        (("--impression-hash", "173694"), "expected 32 digits of 0-9 and a-f"),
        (("--impression", "1", "--impression-hash", "0" * 32), "give either --impression"),
    ]:
        refused = ctr("labels", "--data-root", loans, *options, expect=2)
        assert message in " ".join(refused.stderr.split())
        assert "no-such-case" not in refused.stderr
    assert "absent. Run `ctr run`" in ctr("labels", "--data-root", tmp_path, expect=2).stderr
