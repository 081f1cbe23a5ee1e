"""A planted experiment: the declared effect and nothing else, the declared users, the same assignment as serving's."""

from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ctr_pipeline.simulator import day_files, truth_file, write_day
from ctr_pipeline.simulator.experiment import arms_of_users
from ctr_pipeline.simulator.pilot import make_world
from ctr_pipeline.spec.assignment import arm_in
from ctr_pipeline.spec.simulator import SimulatorSettings

SIZE = {"days": 6, "sessions_per_day": 2000, "users": 4000, "queries": 200, "advertisers": 30, "ads": 300}
DECLARED = {
    "day": "2026-01-03",
    "last_day": "2026-01-04",
    "share": 0.8,
    "treated": 0.25,
    "click": 0.5,
    "next_step": -0.2,
}
PLAIN = SimulatorSettings.model_validate(SIZE)
TREATED = SimulatorSettings.model_validate({**SIZE, "experiment": DECLARED})
DAYS = [date(2026, 1, number) for number in (2, 3, 5)]


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("experiment")
    for name, settings in (("plain", PLAIN), ("treated", TREATED)):
        for day in DAYS:
            write_day(settings, 5, day, folder / name)
    return {name: folder / name for name in ("plain", "treated")}


def test_without_an_experiment_the_log_has_no_arm() -> None:
    assert "experiment" not in PLAIN.model_dump()
    assert set(arms_of_users(make_world(PLAIN, 5)).tolist()) == {-1}


def test_users_are_assigned_by_the_hash_that_serving_uses(logs: dict[str, Path]) -> None:
    log = pl.read_parquet(day_files(logs["treated"], DAYS[1])[0])
    found = dict(log.select("user_id", "experiment_arm").unique().iter_rows())
    assert len(found) == log["user_id"].n_unique()
    assert all(arm_in(user, "experiment", 0.8, 0.25) == arm for user, arm in found.items())
    shares = pl.Series(list(found.values())).value_counts().rows()
    assert dict(shares)["treatment"] / len(found) == pytest.approx(0.2, abs=0.04)


def test_other_days_have_no_arms_and_are_what_they_were(logs: dict[str, Path]) -> None:
    for day in (DAYS[0], DAYS[2]):
        plain, treated = (pl.read_parquet(day_files(logs[name], day)[0]) for name in ("plain", "treated"))
        assert treated["experiment_arm"].null_count() == treated.height
        assert treated.drop("experiment_arm").equals(plain)


def test_the_treatment_has_the_declared_effect_and_no_other(logs: dict[str, Path]) -> None:
    arms = pl.read_parquet(day_files(logs["treated"], DAYS[1])[0])["experiment_arm"].to_numpy()
    plain, treated = (pl.read_parquet(truth_file(logs[name], DAYS[1])) for name in ("plain", "treated"))
    ratio = (treated["click_probability"] / plain["click_probability"]).to_numpy()
    steps = (treated["add_to_cart_probability"] / plain["add_to_cart_probability"]).to_numpy()
    own = arms == "treatment"
    assert own.any()
    assert np.allclose(ratio[~own], 1)
    assert np.allclose(steps[~own], 1)
    raised = own & (plain["relevance"].to_numpy() < 0.6)
    assert np.allclose(ratio[raised], 1.5, rtol=1e-4)
    assert np.allclose(steps[own], 0.8, rtol=1e-4)
    assert treated["relevance"].max() <= 1  # type: ignore[operator]
