"""Beliefs about an impression, and the versions of the labels that held them."""

import io
from datetime import date, timedelta
from pathlib import Path

import polars as pl
import pytest

from ctr_pipeline.commands.label_history import LabelHistoryError, impression_history, label_overview
from ctr_pipeline.deployment.deployment import Deployment, end_of_day_us
from ctr_pipeline.deployment.environment import Environment
from ctr_pipeline.deployment.key import KeyMissingError, existing_pseudonymiser, pseudonymiser
from ctr_pipeline.labels import TABLE_ORDER, label_table
from ctr_pipeline.lake import Lake
from ctr_pipeline.privacy.identities import identity_hash, pseudonym_of
from ctr_pipeline_tests.labels.worlds import DAY_US

FIRST = date(2026, 1, 1)
NOON = end_of_day_us(FIRST) - DAY_US // 2
ONE, TWO = "1" * 32, "2" * 32


@pytest.fixture
def settings(project: Path, tmp_path: Path) -> Deployment:
    return Deployment.from_environment(
        Environment.of({"CTR_SPEC": str(project / "specs" / "ads.yaml"), "CTR_DATA_ROOT": str(tmp_path / "data")})
    )


def label(settings: Deployment, last: date) -> int:
    """Labels the first day with what had arrived by the end of ``last``."""
    lake = Lake(settings.paths.lake)
    shown = lake.scan("impressions").select("day", "impression_id", "ts", "ingest_ts")
    rows = label_table(shown, lake.scan("outcome_events"), settings.spec.tasks, end_of_day_us(last)).collect()
    return lake.replace_days("labels", rows.sort("day", *TABLE_ORDER), [FIRST])


@pytest.fixture
def labelled(settings: Deployment) -> dict[str, int]:
    """Two impressions of one noon. The click of the first arrives two days late; the day is labelled three times."""
    lake = Lake(settings.paths.lake)
    shown = pl.DataFrame({"day": [FIRST] * 2, "impression_id": [ONE, TWO], "ts": [NOON] * 2, "ingest_ts": [NOON] * 2})
    lake.replace_days("impressions", shown, [FIRST])
    arrived = NOON + 2 * DAY_US
    day = FIRST + timedelta(days=2)
    click = {"day": day, "impression_id": ONE, "event": "click", "kind": "outcome", "event_ts": NOON + 60_000_000,
             "ingest_ts": arrived}  # fmt: skip
    lake.replace_days("outcome_events", pl.DataFrame([click]), [day])
    return {f"day {n}": label(settings, FIRST + timedelta(days=n)) for n in (0, 1, 5)}


def test_each_state_names_the_versions_that_held_it(settings: Deployment, labelled: dict[str, int]) -> None:
    found = impression_history(settings, ONE, None)
    clicks = [(s["state"], s["value"], s["revision"], s["versions"]) for s in found["tasks"]["click"]]
    assert clicks == [
        ("CENSORED", None, 0, [labelled["day 0"]]),
        ("NEGATIVE", 0, 0, [labelled["day 1"]]),
        ("LATE_POSITIVE", 1, 1, [labelled["day 5"]]),
    ]
    assert [s["from"] for s in found["tasks"]["click"]] == [
        "2026-01-01T12:00:00Z", "2026-01-02T12:00:00Z", "2026-01-03T12:00:00Z",
    ]  # fmt: skip
    assert found["tasks"]["click"][0]["elapsed_seconds"] == 86_400
    carts = [(s["state"], s["versions"]) for s in found["tasks"]["add_to_cart"]]
    assert carts == [("CENSORED", list(labelled.values()))]


@pytest.mark.parametrize(
    ("day", "state", "version", "words"),
    [
        (0, "CENSORED", "day 0", "made as of that instant, held it"),
        (1, "NEGATIVE", "day 1", "made as of that instant, held it"),
        # Nothing was labelled on the third day: what had arrived then is known, and which labels were held what too.
        (2, "LATE_POSITIVE", "day 1", "The newest labels on that day were version"),
        (5, "LATE_POSITIVE", "day 5", "made as of that instant, held it"),
    ],
)
def test_the_belief_of_a_day_and_its_version(
    settings: Deployment, labelled: dict[str, int], day: int, state: str, version: str, words: str
) -> None:
    label = impression_history(settings, ONE, FIRST + timedelta(days=day))["label_as_of"]
    assert label["tasks"]["click"]["state"] == state
    assert label["version"] == labelled[version]
    assert words in label["held_by"]


def test_a_version_that_held_something_else_is_not_passed_over(settings: Deployment, labelled: dict[str, int]) -> None:
    """The log of the third day is read again, without the click: the third version of the labels did not know that."""
    Lake(settings.paths.lake).replace_days(
        "outcome_events",
        Lake(settings.paths.lake).scan("outcome_events").collect().clear(),
        [FIRST + timedelta(days=2)],
    )
    again = label(settings, FIRST + timedelta(days=6))
    found = impression_history(settings, ONE, FIRST + timedelta(days=5))
    assert [(s["state"], s["versions"]) for s in found["tasks"]["click"]] == [
        ("CENSORED", [labelled["day 0"]]),
        ("NEGATIVE", [labelled["day 1"], again]),
    ]
    assert found["label_as_of"]["version"] == labelled["day 5"]
    assert "held something else" in found["label_as_of"]["held_by"]
    [held] = [version for version in found["versions"] if version["version"] == labelled["day 5"]]
    assert held["tasks"]["click"]["state"] == "LATE_POSITIVE"


def test_the_overview_counts_states_and_what_was_known_of_todays_positives(
    settings: Deployment, labelled: dict[str, int]
) -> None:
    then = label_overview(settings, FIRST + timedelta(days=1))["tasks"]["click"]
    assert (then["positives"], then["positives_known_now"], then["completeness"]) == (0, 1, 0)
    assert then["late_rate"] is None
    now = label_overview(settings, None)
    assert now["tasks"]["click"]["states"]["LATE_POSITIVE"] == 1
    assert (now["tasks"]["click"]["completeness"], now["tasks"]["click"]["late_rate"]) == (1, 1)
    assert now["tasks"]["checkout"]["states"]["CENSORED"] == now["impressions"] == 2
    assert now["tasks"]["checkout"]["completeness"] is None


def test_without_labels_there_is_no_answer(settings: Deployment) -> None:
    with pytest.raises(LabelHistoryError, match="nothing was labelled yet"):
        label_overview(settings, None)


def test_an_id_is_hashed_with_the_deployments_key_and_none_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashes = pseudonymiser(Environment.of({"CTR_PSEUDONYM_KEY": "0123456789abcdef"}))
    # openssl dgst -sha256 -hmac 0123456789abcdef, of `user-7`
    expected = "5c29e327f461d4e7a07e76567bfedd45"
    assert pseudonym_of("user-7", hashes) == identity_hash("user-7", None, "user", lambda: hashes) == expected
    monkeypatch.setattr("sys.stdin", io.StringIO("user-7\n"))
    assert identity_hash("-", None, "user", lambda: hashes) == expected
    assert identity_hash(None, expected, "user", lambda: pytest.fail("no key is needed")) == expected
    absent = Environment.of({"CTR_PSEUDONYM_KEY_FILE": str(tmp_path / "key")})
    with pytest.raises(KeyMissingError, match="there is no key"):
        existing_pseudonymiser(absent)
    assert not (tmp_path / "key").exists()
