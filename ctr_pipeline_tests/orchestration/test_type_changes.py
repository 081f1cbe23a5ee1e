"""The check of event types: another spelling, a type that comes or goes, and what is no change."""

from datetime import date, timedelta

import pytest

from ctr_pipeline.orchestration.checks.type_changes import Change, TypeEvidence, check_event_types, find_changes

FIRST = date(2026, 3, 1)


def evidence(window: int = 1, **types: list[int]) -> TypeEvidence:
    """Events a day of each type; ``click`` is used."""
    days = range(len(next(iter(types.values()))))
    counts = {FIRST + timedelta(days=n): {kind: events[n] for kind, events in types.items() if events[n]} for n in days}
    return TypeEvidence(counts=counts, used={"click": window})


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (
            evidence(click=[100] * 5 + [50] * 3, Click=[0] * 5 + [50] * 3),
            "`Click` is ignored from 2026-03-06 on, while `click` halves: another spelling of `click`?",
        ),
        (
            evidence(click=[100] * 5 + [71] * 3, tap=[0] * 5 + [29] * 3),
            "`tap` is ignored from 2026-03-06 on, while `click` falls to 71%.",
        ),
        (
            evidence(click=[100] * 5 + [0] * 3, tap=[0] * 5 + [99] * 3),
            "`click` does not occur from 2026-03-06 on. `tap` is ignored from 2026-03-06 on, while `click` disappears.",
        ),
        (evidence(click=[0] * 3 + [90] * 5, view=[9] * 8), "`click` occurs from 2026-03-04 on."),
        (evidence(click=[90] * 8, view=[0] * 3 + [90] * 5), "`view` is ignored from 2026-03-04 on."),
        (
            evidence(click=[30] * 4 + [90] * 4, tap=[60] * 4 + [0] * 4),
            "`tap` does not occur from 2026-03-05 on, while `click` is 33% as frequent before as it is after.",
        ),
        (
            evidence(click=[90] * 8, CLICK=[20] * 8),
            "`CLICK` is ignored (160 events), and differs from `click` in its spelling only.",
        ),
    ],
    ids=["half", "a part", "renamed", "a used one appears", "an ignored one appears", "one goes", "always"],
)
def test_a_changed_type_warns(found: TypeEvidence, words: str) -> None:
    outcome = check_event_types(found)
    assert not outcome.passed
    assert not outcome.error
    assert words in str(outcome.description)


@pytest.mark.parametrize(
    "found",
    [
        evidence(click=[]),
        evidence(click=[100] * 8, view=[70] * 8),
        evidence(click=[100] * 8, buy=[2] * 5 + [0] * 3),
        evidence(click=[100] * 8, buy=[0] * 3 + [4] * 5),
        evidence(window=3, click=[0] * 3 + [90] * 5, view=[9] * 8),
        evidence(click=[100, 0, 100, 100], view=[0, 0, 4, 0]),
        evidence(click=[0] * 8, view=[100] * 8),
    ],
    ids=["no day", "steady", "a rare one goes", "a rare one comes", "a long window", "a gap", "none at all"],
)
def test_chance_and_windows_are_no_change(found: TypeEvidence) -> None:
    assert check_event_types(found).passed


def test_days_without_any_event_are_an_outage_and_no_change_of_a_type() -> None:
    assert check_event_types(evidence(click=[100] * 5 + [0] * 3)).passed


def test_ignored_types_may_be_among_the_unnamed() -> None:
    """A rare type is named on some days only; a used one always is."""
    counts = {FIRST + timedelta(days=n): {"click": 90, **({"view": 50} if n < 4 else {"": 50})} for n in range(8)}
    assert find_changes(TypeEvidence(counts=counts, used={"click": 1})) == []
    without = {day: {kind: n for kind, n in of_day.items() if kind != "click"} for day, of_day in counts.items()}
    gone = {**counts, **{day: of_day for day, of_day in without.items() if day >= FIRST + timedelta(days=6)}}
    expected = Change("click", FIRST + timedelta(days=6), appears=False)
    assert find_changes(TypeEvidence(counts=gone, used={"click": 1})) == [expected]


def test_many_changes_are_counted() -> None:
    many = evidence(click=[90] * 8, **{f"type{n}": [0] * 3 + [90] * 5 for n in range(9)})
    assert "4 more types appear or disappear." in str(check_event_types(many).description)
