"""The bundled specs, durations, and what other packages ask of a loaded spec."""

import random
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ctr_pipeline.spec import Spec, load_spec, parse_spec, spec_hash
from ctr_pipeline.spec.fields import LONGEST_DURATION_US, MICROSECONDS, format_duration, parse_duration
from ctr_pipeline.spec.tasks import Label, Task

BUNDLED = ("ads", "credit", "criteo", "ga4", "loan_funnel", "open_bandit")
HOUR, DAY = 3_600_000_000, 86_400_000_000

durations = st.integers(min_value=0, max_value=LONGEST_DURATION_US)


def content_of(project: Path, name: str) -> dict[str, Any]:
    """The bundled spec as plain YAML content."""
    content: dict[str, Any] = yaml.safe_load((project / "specs" / f"{name}.yaml").read_text(encoding="utf-8"))
    return content


def shuffled(value: Any, order: random.Random) -> Any:
    """``value`` with the keys of every mapping in another order."""
    if isinstance(value, dict):
        items = [(key, shuffled(inner, order)) for key, inner in value.items()]
        order.shuffle(items)
        return dict(items)
    return [shuffled(inner, order) for inner in value] if isinstance(value, list) else value


def test_every_spec_of_the_folder_is_tested(project: Path) -> None:
    assert {path.stem for path in (project / "specs").glob("*.yaml")} == set(BUNDLED)


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_spec_loads_and_is_named_after_its_file(project: Path, name: str) -> None:
    spec = load_spec(project / "specs" / f"{name}.yaml")
    assert spec.name == name
    assert spec.description


@pytest.mark.parametrize("name", BUNDLED)
def test_spec_survives_being_written_and_read(project: Path, name: str) -> None:
    spec = load_spec(project / "specs" / f"{name}.yaml")
    written = yaml.safe_dump(spec.model_dump(mode="json"))
    again = parse_spec(written, where="again")
    assert again == spec
    assert spec_hash(again) == spec_hash(spec)


def test_training_has_the_seed_of_the_spec_or_one_of_its_own(project: Path) -> None:
    content = content_of(project, "ads")
    spec = parse_spec(yaml.safe_dump(content), where="ads")
    content["training"] = {"seed": 0}
    other = parse_spec(yaml.safe_dump(content), where="ads")
    assert (spec.training_seed, other.seed, other.training_seed) == (spec.seed, spec.seed, 0)
    # Without one, nothing of the spec and its hash tells that there could be one.
    assert "seed" not in spec.model_dump()["training"]


def test_maturity_adds_up_the_windows_a_task_starts_from(project: Path) -> None:
    spec = load_spec(project / "specs" / "ads.yaml")
    assert spec.maturity("click") == 24 * HOUR
    assert spec.maturity("checkout") == 24 * HOUR + 14 * DAY
    assert spec.longest_maturity == 15 * DAY


def test_ingest_lag_delays_every_label(project: Path) -> None:
    content = content_of(project, "ads")
    content["split"]["ingest_lag"] = "6h"
    spec = parse_spec(yaml.safe_dump(content), where="ads")
    assert spec.maturity("click") == 30 * HOUR
    assert spec.longest_maturity == 15 * DAY + 6 * HOUR


def test_first_day_comes_from_days_then_simulator_then_order(project: Path) -> None:
    assert load_spec(project / "specs" / "ads.yaml").first_day == date(2026, 1, 1)
    assert load_spec(project / "specs" / "criteo.yaml").first_day == date(2024, 1, 1)
    assert load_spec(project / "specs" / "ga4.yaml").first_day is None
    content = content_of(project, "ads") | {"days": {"first": "2026-01-05"}}
    assert parse_spec(yaml.safe_dump(content), where="ads").first_day == date(2026, 1, 5)


def test_features_by_how_they_enter_the_model(project: Path) -> None:
    features = load_spec(project / "specs" / "ads.yaml").features
    assert [f.name for f in features.numeric][-3:] == ["session_depth", "query_length", "result_count"]
    assert [f.name for f in features.embedded][:2] == ["user_id", "ad_id"]
    assert features.embedded[-1].name == "is_logged_in"


def test_label_columns_are_those_that_tell_the_outcome(project: Path) -> None:
    task = load_spec(project / "specs" / "loan_funnel.yaml").task("approved")
    assert task.label.columns == ("A_APPROVED", "A_DECLINED", "A_CANCELLED")
    assert Label(event="click").columns == ()


def test_duration_in_code_is_in_microseconds() -> None:
    assert Task(name="click", window=DAY, label=Label(event="click")).window == DAY


@pytest.mark.parametrize(
    ("text", "microseconds"),
    [
        ("0s", 0),
        ("250us", 250),
        ("5ms", 5_000),
        ("90s", 90_000_000),
        ("30m", HOUR // 2),
        ("24h", DAY),
        ("14d", 14 * DAY),
    ],
)
def test_duration_units(text: str, microseconds: int) -> None:
    assert parse_duration(text) == microseconds


@given(durations)
def test_duration_round_trip(microseconds: int) -> None:
    text = format_duration(microseconds)
    assert parse_duration(text) == microseconds
    number = int("".join(c for c in text if c.isdigit()))
    assert number == 0 or all(microseconds % size or number <= microseconds // size for size in MICROSECONDS.values())


@given(st.integers(0, 3_660), st.sampled_from(sorted(MICROSECONDS)))
def test_duration_is_a_number_directly_followed_by_its_unit(number: int, unit: str) -> None:
    assert parse_duration(f"{number}{unit}") == number * MICROSECONDS[unit]
    for text in (
        f"{number} {unit}",
        f"-{number}{unit}",
        f"{number}.0{unit}",
        f"{number}",
        f"{unit}",
        f"{number}{unit}x",
    ):
        with pytest.raises(ValueError, match="a duration is a whole number with a unit"):
            parse_duration(text)


@pytest.mark.parametrize("digit", ["\N{SUPERSCRIPT TWO}h", "\N{ARABIC-INDIC DIGIT TWO}h", "2\N{MICRO SIGN}s"])
def test_only_plain_digits_and_units(digit: str) -> None:
    with pytest.raises(ValueError, match="a duration is a whole number with a unit"):
        parse_duration(digit)


@settings(max_examples=25)
@given(st.sampled_from(BUNDLED), st.randoms(use_true_random=False), st.booleans())
def test_hash_ignores_layout(project: Path, name: str, order: random.Random, flow: bool) -> None:
    content = content_of(project, name)
    text = yaml.safe_dump(shuffled(content, order), sort_keys=False, default_flow_style=flow)
    assert spec_hash(parse_spec(f"# comment\n{text}", where=name)) == spec_hash(
        parse_spec(yaml.dump(content), where=name)
    )


@settings(max_examples=25)
@given(durations, durations)
def test_hash_follows_content(project: Path, one: int, other: int) -> None:
    assume(one != other)

    def with_window(window: int) -> Spec:
        content = content_of(project, "open_bandit")
        content["tasks"][0]["window"] = format_duration(window)
        return parse_spec(yaml.safe_dump(content), where="open_bandit")

    assert spec_hash(with_window(one)) != spec_hash(with_window(other))


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        (None, "seed", 8),
        ("model", "hidden", [64, 128]),
        ("training", "learning_rate", 1e-4),
        ("split", "ingest_lag", "1s"),
    ],
)
def test_hash_changes_with_any_section(project: Path, section: str | None, key: str, value: object) -> None:
    content = content_of(project, "ads")
    before = spec_hash(parse_spec(yaml.safe_dump(content), where="ads"))
    (content if section is None else content.setdefault(section, {}))[key] = value
    assert spec_hash(parse_spec(yaml.safe_dump(content), where="ads")) != before


def test_a_default_written_out_changes_nothing(project: Path) -> None:
    content = content_of(project, "ads")
    before = spec_hash(parse_spec(yaml.safe_dump(content), where="ads"))
    content["time_zone"] = "UTC"
    content["tasks"][0]["window"] = "1d"
    assert spec_hash(parse_spec(yaml.safe_dump(content), where="ads")) == before


def test_later_steps_of_a_funnel_count_a_tenth_in_the_loss_unless_the_spec_gives_their_weight(project: Path) -> None:
    content = content_of(project, "credit")
    content["tasks"][2]["loss_weight"] = 3
    spec = parse_spec(yaml.safe_dump(content), where="credit")
    assert [task.weight_in_loss for task in spec.tasks] == [1.0, 0.1, 3.0, 0.1]
