from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ctr_pipeline.propensity import PropensityError, policy_value


def test_estimates_by_hand() -> None:
    reward, logged, target = np.array([1.0, 0.0, 1.0]), np.array([0.5, 0.25, 1.0]), np.full(3, 0.5)
    value = policy_value(reward, logged, target)
    # Weights 1, 2, 0.5.
    assert value.ips == pytest.approx(1.5 / 3)
    assert value.ips_error == pytest.approx(np.std([1, 0, 0.5], ddof=1) / np.sqrt(3))
    assert value.snipw == pytest.approx(1.5 / 3.5)
    residuals = np.array([1 - 1.5 / 3.5, 2 * (0 - 1.5 / 3.5), 0.5 * (1 - 1.5 / 3.5)])
    assert value.snipw_error == pytest.approx(np.sqrt(np.sum(residuals**2)) / 3.5)
    assert value.ess == pytest.approx(3.5**2 / 5.25)
    assert value.rows == 3


def test_the_logging_policy_itself_has_the_plain_mean() -> None:
    reward, logged = np.array([1.0, 0.0, 0.0, 1.0]), np.array([0.1, 0.2, 0.3, 0.4])
    value = policy_value(reward, logged, logged)
    assert value.ips == value.snipw == 0.5
    assert value.ess == 4


@pytest.mark.parametrize(
    ("logged", "target"), [([], []), ([0.0], [0.1]), ([1.5], [0.1]), ([0.5], [-0.1]), ([np.nan], [0.1]), ([0.5], [0.0])]
)
def test_impossible_probabilities_are_refused(logged: list[float], target: list[float]) -> None:
    with pytest.raises(PropensityError, match="policy value"):
        policy_value(np.ones(len(logged)), np.array(logged), np.array(target))


def test_random_policy_from_production_logs_of_a_shop(shared_data: Path) -> None:
    """The uniform policy's click rate, estimated from the log of another policy, against its own log."""
    log = pl.read_parquet(shared_data / "open_bandit.parquet").filter(pl.col("campaign") == "men")
    items = log["item_id"].n_unique()
    production = log.filter(pl.col("policy") == "bts")
    value = policy_value(
        production["clicked"].to_numpy().astype(float),
        production["propensity"].to_numpy(),
        np.full(production.height, 1 / items),
    )
    assert value.ips == pytest.approx(0.0030, abs=0.00005)
    assert value.ips_error == pytest.approx(0.0008, abs=0.00005)
    assert value.ess == pytest.approx(656, abs=1)
    random = log.filter(pl.col("policy") == "random")
    assert random["clicked"].mean() == pytest.approx(0.0046, abs=0.00005)
    itself = policy_value(
        random["clicked"].to_numpy().astype(float), random["propensity"].to_numpy(), np.full(random.height, 1 / items)
    )
    assert itself.ips == pytest.approx(random["clicked"].mean())
