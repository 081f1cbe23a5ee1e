"""`ctr experiment plan` and `read` on a data root whose rows are known: totals, maturity, contamination, decisions, messages."""

import json
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
from typer.testing import CliRunner

from ctr_pipeline.cli import app
from ctr_pipeline.commands.experiment_plan import Wanted, plan_from_log
from ctr_pipeline.commands.experiment_read import ArmColumn, plan_of, read_experiment
from ctr_pipeline.commands.experiment_rows import ExperimentError, settled_rows, terms_of
from ctr_pipeline.deployment.deployment import Deployment, end_of_day_us
from ctr_pipeline.deployment.environment import Environment
from ctr_pipeline.experiments.declared_plan import Looks, Plan, Unit
from ctr_pipeline.experiments.design import CONTROL, TREATMENT, Canary, Design
from ctr_pipeline.labels import TABLE_ORDER, label_table
from ctr_pipeline.lake import Lake
from ctr_pipeline_tests.labels.worlds import DAY_US

FIRST, BEGIN, LAST = date(2026, 1, 1), date(2026, 1, 9), date(2026, 1, 20)
USERS = [f"{number:032x}" for number in range(1, 1201)]
DESIGN = Design(name="test")


def rows(seed: int = 0) -> pl.DataFrame:
    """Three rows a day of a third of the users, whose rates differ; users treated from BEGIN on click twice as often."""
    rng = np.random.default_rng(seed)
    rate = dict(zip(USERS, rng.beta(1.5, 13, len(USERS)), strict=True))
    parts = []
    for number in range((LAST - FIRST).days + 1):
        day = FIRST + timedelta(days=number)
        for user in rng.choice(USERS, len(USERS) // 3, replace=False):
            arm = DESIGN.arm_of(user) if day >= BEGIN else None
            chance = rate[user] * (2 if arm == TREATMENT else 1)
            start = end_of_day_us(day) - DAY_US + int(rng.integers(0, DAY_US))
            parts += [
                {"day": day, "ts": start + slot, "user": user, "arm": arm, "session": f"{user}-{day}", "clicked": bool(rng.random() < chance),
                 "position": slot + 1, "price": float(rng.lognormal(3, 1)), "device_type": "mobile" if slot else "desktop"}
                for slot in range(3)
            ]  # fmt: skip
    frame = pl.DataFrame(parts, infer_schema_length=None)
    return frame.with_columns(
        ingest_ts=pl.col("ts"), impression_id=pl.int_range(pl.len()).map_elements(lambda n: f"{n:032x}", pl.String)
    )


def fill(deployment: Deployment, frame: pl.DataFrame) -> None:
    lake = Lake(deployment.paths.lake)
    days = frame["day"].unique().sort().to_list()
    lake.replace_days("impressions", frame.drop("clicked").sort("day", "ts"), days)
    clicks = frame.filter("clicked").select(
        "day", "impression_id", event=pl.lit("click"), kind=pl.lit("outcome"), event_ts=pl.col("ts") + 1,
        ingest_ts=pl.col("ts") + 2, source_log=pl.lit("outcome_events"),
    )  # fmt: skip
    lake.replace_days("outcome_events", clicks, days)
    shown = lake.scan("impressions").select("day", "impression_id", "ts", "ingest_ts")
    labels = label_table(shown, lake.scan("outcome_events"), deployment.spec.tasks, end_of_day_us(LAST)).collect()
    lake.replace_days("labels", labels.sort("day", *TABLE_ORDER), days)


@pytest.fixture(scope="module")
def frame() -> pl.DataFrame:
    return rows()


@pytest.fixture(scope="module")
def deployment(project: Path, tmp_path_factory: pytest.TempPathFactory, frame: pl.DataFrame) -> Deployment:
    folder = tmp_path_factory.mktemp("experiment")
    content = yaml.safe_load((project / "specs" / "ads.yaml").read_text(encoding="utf-8"))
    content["impression"]["arm"] = {"column": "variant", "control": ["a"], "treatment": ["b"]}
    content["tasks"] = [content["tasks"][0]]
    content["features"]["history"] = content.pop("propensity", None) and []
    content["serving"] = {"score": [{"task": "click", "weight": 0.5, "bid": "price"}]}
    content.pop("label_quality", None)
    (folder / "spec.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    environment = {"CTR_SPEC": str(folder / "spec.yaml"), "CTR_DATA_ROOT": str(folder / "data")}
    found = Deployment.from_environment(Environment.of(environment))
    found.save()
    fill(found, frame)
    return found


def wanted(**changes: Any) -> Wanted:
    fine: dict[str, Any] = {
        "design": DESIGN, "relative": 0.5, "alpha": 0.05, "power": 0.8, "sides": 2, "looks": Looks.ANY,
        "unit": Unit.IMPRESSION, "first": BEGIN,
    }  # fmt: skip
    return Wanted(**(fine | changes))


def planned(deployment: Deployment, **changes: Any) -> Plan:
    return plan_of(json.loads(json.dumps(plan_from_log(deployment, wanted(**changes)))))


def test_rows_are_settled_by_their_time_alone(deployment: Deployment, frame: pl.DataFrame) -> None:
    found = settled_rows(deployment, terms_of(deployment.spec, None, None, False), BEGIN, LAST)
    own = frame.filter(pl.col("day") >= BEGIN)
    mature = own.filter(pl.col("ts") + DAY_US <= end_of_day_us(LAST))
    # A click of the last day is known and not counted: absences of that day are not.
    assert own.filter("clicked", pl.col("ts") + DAY_US > end_of_day_us(LAST)).height > 0
    assert found.frame.height == mature.height
    assert found.frame["outcome"].sum() == mature["clicked"].sum()
    assert found.shown == own.height
    assert found.share == pytest.approx(mature.height / own.height)


def test_arms_have_their_totals_and_the_effect_is_found(deployment: Deployment, frame: pl.DataFrame) -> None:
    plan = planned(deployment)
    found = read_experiment(deployment, plan, slices=["device_type", "position"])
    mature = frame.filter(pl.col("day") >= BEGIN, pl.col("ts") + DAY_US <= end_of_day_us(LAST))
    for name in (CONTROL, TREATMENT):
        own = mature.filter(pl.col("arm") == name)
        assert found["arms"][name]["impressions"] == own.height
        assert found["arms"][name]["users"] == own["user"].n_unique()
        assert found["arms"][name]["outcomes"] == own["clicked"].sum()
    reading = found["reading"]
    assert reading["relative"]["low"] < 1 < reading["relative"]["high"]
    assert reading["explained"] > 0.05
    assert reading["ratio_p_value"] > 0.05
    assert found["advice"]["verdict"] == "ship"
    assert found["contamination"] == {"users": 0, "share": 0.0, "impressions": 0}
    assert [one["value"] for one in found["slices"]] == ["desktop", "mobile", "1", "2", "3"]
    assert all(one["differs"] for one in found["slices"])
    # The hash of the design is what the log says.
    by_hash = read_experiment(deployment, plan, by_hash=True)
    assert by_hash["arms"] == found["arms"]
    assert by_hash["reading"] == reading


def test_units_and_values_are_those_declared(deployment: Deployment, frame: pl.DataFrame) -> None:
    mature = frame.filter(
        pl.col("day") >= BEGIN, pl.col("ts") + DAY_US <= end_of_day_us(LAST), pl.col("arm") == CONTROL
    )
    for unit, trials in ((Unit.SESSION, mature["session"].n_unique()), (Unit.USER, mature["user"].n_unique())):
        found = read_experiment(deployment, planned(deployment, unit=unit))["arms"][CONTROL]
        assert found["trials"] == trials
        assert found["rate"] == pytest.approx(mature["clicked"].sum() / trials)
    plan = plan_of(plan_from_log(deployment, wanted(), score=True))
    worth = read_experiment(deployment, plan)["arms"][CONTROL]["outcomes"]
    assert worth == pytest.approx(0.5 * (mature["clicked"] * mature["price"]).sum())


def test_users_of_both_arms_are_counted_and_left_out(
    deployment: Deployment, frame: pl.DataFrame, tmp_path: Path
) -> None:
    mixed = set(USERS[:50])
    flipped = frame.with_columns(
        arm=pl.when(pl.col("user").is_in(mixed) & (pl.col("day") == date(2026, 1, 12)))
        .then(pl.when(pl.col("arm") == CONTROL).then(pl.lit(TREATMENT)).otherwise(pl.lit(CONTROL)))
        .otherwise("arm")
    )
    other = _copy(deployment, tmp_path)
    fill(other, flipped)
    found = read_experiment(other, planned(deployment))
    seen = flipped.filter(pl.col("day") >= BEGIN, pl.col("ts") + DAY_US <= end_of_day_us(LAST))
    both = seen.group_by("user").agg(pl.col("arm").n_unique()).filter(pl.col("arm") > 1).height
    assert found["contamination"]["users"] == both > 5
    arms = found["arms"]
    assert arms[CONTROL]["users"] + arms[TREATMENT]["users"] == seen["user"].n_unique() - both


def test_an_uneven_assignment_stops_with_its_reason(
    deployment: Deployment, frame: pl.DataFrame, tmp_path: Path
) -> None:
    lost = {user for user in USERS[::3] if DESIGN.arm_of(user) == TREATMENT}
    other = _copy(deployment, tmp_path)
    fill(other, frame.filter(~pl.col("user").is_in(lost)))
    found = read_experiment(other, planned(deployment))
    assert found["advice"]["verdict"] == "stop"
    assert "users were not assigned as declared: share of the treatment 50.00% declared, 4" in found["advice"]["reason"]


def test_a_canary_s_users_take_no_part(deployment: Deployment) -> None:
    design = Design(name="test", canaries=(Canary("t", 0.5),))
    plan = planned(deployment, design=design)
    plain, found = read_experiment(deployment, planned(deployment)), read_experiment(deployment, plan)
    assert found["arms"][CONTROL]["users"] == pytest.approx(plain["arms"][CONTROL]["users"] / 2, rel=0.15)
    assert found["arms"] == read_experiment(deployment, plan, by_hash=True)["arms"]


def test_another_column_may_say_the_arm(deployment: Deployment) -> None:
    column = ArmColumn("device_type", ["mobile"], ["desktop"])
    with pytest.raises(ExperimentError, match="of a user in one arm: look at the values of column `device_type`"):
        read_experiment(deployment, planned(deployment), column=column)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "sale"}, "task 'sale': the spec has no such task; its tasks are click"),
        ({"value": "device_type"}, "value 'device_type' is no number that is stored"),
        ({"value": "bid"}, "value 'bid' is no number that is stored of impressions; stored are price"),
    ],
)
def test_what_the_log_has_not_is_told(deployment: Deployment, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ExperimentError, match=message):
        plan_from_log(deployment, wanted(), **change)


def test_the_commands_print_what_they_find_and_no_user(deployment: Deployment, tmp_path: Path) -> None:
    run, root, plan = CliRunner().invoke, ["--data-root", str(deployment.data_root)], str(tmp_path / "plan.json")
    options = ["--effect", "0.2", "--from", str(BEGIN), "--json", plan]
    done = run(app, ["experiment", "plan", "test", *options, *root])
    assert done.exit_code == 0, done.output
    assert "Experiment test: click per impression" in done.output
    assert "Design(name='test', share=1, treated=0.5, canaries=()).arm_of(pseudonym)" in done.output
    content = json.loads(Path(plan).read_text())
    assert content["log"]["first"] == "2026-01-11"
    assert content["size"]["sequential_days"] > content["size"]["days"]
    done = run(app, ["experiment", "read", plan, "--by", "device_type", "--json", str(tmp_path / "r.json"), *root])
    assert done.exit_code == 0, done.output
    assert "ship: the treatment is better: +" in done.output
    assert not any(user in done.output + (tmp_path / "r.json").read_text() for user in USERS)
    done = run(
        app,
        [
            "experiment",
            "plan",
            "x",
            "--effect",
            "0.1",
            "--rate",
            "0.01",
            "--users-per-day",
            "1000",
            "--canary",
            "t=0.1",
        ],
    )
    assert done.exit_code == 0, done.output
    assert "canaries=(Canary('t', 0.1),)" in done.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plan", "x", "--effect", "0.1", "--per", "page"], "--per 'page': expected one of impression, session, user."),
        (["plan", "x", "--effect", "0.1", "--rate", "0.1"], "--rate and --users-per-day go together"),
        (["plan", "x", "--effect", "0", "--rate", "0.1", "--users-per-day", "9"], "relative: expected a difference that is not 0"),
        (["plan", "x", "--effect", "0.1", "--rate", "1.1", "--users-per-day", "9"], "rate: expected a share between 0 and 1"),
        (["plan", "x", "--effect", "0.1", "--canary", "t"], "--canary 't': expected TRIAL=SHARE"),
        (["plan", "x", "--effect", "0.1", "--canary", "t=x"], "--canary 't=x': expected TRIAL=SHARE"),
        (["read", "absent.json"], "absent.json: the file cannot be read."),
        (["read", "{folder}/no.json"], "the file is no JSON"),
        (["read", "{folder}/list.json"], "it is no plan of an experiment"),
        (["read", "{folder}/list.json", "--arm-column", "x"], "--arm-column x: say which of its values mean what"),
        (["read", "{folder}/list.json", "--control", "x"], "are values of --arm-column: name it"),
    ],
)  # fmt: skip
def test_options_that_do_not_fit_end_with_a_message(
    deployment: Deployment, tmp_path: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "no.json").write_text("{", encoding="utf-8")
    (tmp_path / "list.json").write_text("[1]", encoding="utf-8")
    given = [argument.replace("{folder}", str(tmp_path)) for argument in arguments]
    done = CliRunner().invoke(app, ["experiment", *given, "--data-root", str(deployment.data_root)])
    assert done.exit_code == 2
    assert message in " ".join(done.output.split())


def _copy(deployment: Deployment, folder: Path) -> Deployment:
    """The same spec on a data root of its own."""
    environment = {
        "CTR_SPEC": str(deployment.data_root.parent / "spec.yaml"), "CTR_DATA_ROOT": str(folder / "data"),
    }  # fmt: skip
    return Deployment.from_environment(Environment.of(environment))
