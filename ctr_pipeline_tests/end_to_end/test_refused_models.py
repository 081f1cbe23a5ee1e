"""A model that must not be served is never promoted, and the run says why: in its report, its exit code and in MLflow."""

import json
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml

Ctr = Callable[..., "subprocess.CompletedProcess[str]"]
ROWS, DAYS = 6000, 10
TEST_STARTS = datetime(2026, 3, 9, tzinfo=UTC)

SPEC: dict[str, Any] = {
    "version": 1,
    "name": "shop",
    "source": {"impressions": {"paths": ["log.parquet"]}},
    "impression": {"id": "id", "time": "time"},
    "features": {"dense": [{"name": "price"}], "categorical": [{"name": "colour"}]},
    "tasks": [{"name": "click", "window": "0s", "label": {"column": "clicked"}}],
    "split": {"test": {"days": 2}, "calibration": {"days": 1}, "validation": {"days": 1}},
    "model": {"hidden": [8], "embedding_dim": 4},
    "training": {"epochs": 3, "batch_size": 128, "learning_rate": 0.005},
}


def log() -> pl.DataFrame:
    draws = np.random.default_rng(0)
    price = draws.normal(0, 1, ROWS)
    seconds = np.sort(draws.integers(0, DAYS * 86_400, ROWS))
    return pl.DataFrame(
        {
            "id": [f"i{n}" for n in range(ROWS)],
            "time": [datetime(2026, 3, 1, tzinfo=UTC) + timedelta(seconds=int(s)) for s in seconds],
            "price": price,
            "colour": draws.choice(["red", "green", "blue"], ROWS),
            "clicked": (draws.random(ROWS) < 1 / (1 + np.exp(1.5 - 1.5 * price))).astype(np.int8),
        }
    )


class Shop:
    """A folder with a log and a spec, and `ctr run` over them."""

    def __init__(self, ctr: Ctr, folder: Path) -> None:
        self.ctr, self.folder = ctr, folder
        (folder / "shop.yaml").write_text(yaml.safe_dump(SPEC), encoding="utf-8")

    def run(self, rows: pl.DataFrame, expect: int) -> tuple[dict[str, Any], str]:
        """The report, and what was printed on stderr."""
        rows.write_parquet(self.folder / "log.parquet")
        done = self.ctr(
            "run", "--spec", self.folder / "shop.yaml", "--data-root", self.folder / "data",
            "--json", self.folder / "out.json", expect=expect,
        )  # fmt: skip
        assert "Traceback" not in done.stderr + done.stdout
        report: dict[str, Any] = json.loads((self.folder / "out.json").read_text(encoding="utf-8"))
        return report, done.stderr

    def champion(self) -> str | None:
        """Version of the champion in MLflow's registry."""
        from mlflow import MlflowClient

        client = MlflowClient(f"sqlite:///{self.folder / 'data' / 'mlflow.db'}")
        found = client.search_registered_models()
        return found[0].aliases.get("champion") if found else None


def refuse_backwards(shop: Shop, good: pl.DataFrame, runs: int) -> None:
    """Runs over a log of which the test part contradicts the rest: nothing is promoted, however often one asks."""
    # What raised the rate of clicks until the test began lowers it from then on.
    backwards = good.with_columns(price=pl.when(pl.col("time") < TEST_STARTS).then("price").otherwise(-pl.col("price")))
    for _ in range(runs):  # the second run finds everything made but the promotion, and refuses it again
        report, said = shop.run(backwards, expect=3)
        assert report["outcome"]["status"] == "refused"
        assert "better_than_base_rate: click: NE" in report["outcome"]["reason"]
        assert "no better than the base rate" in said
        assert report["model"]["promoted"] is False
        assert report["model"]["reasons"] == [report["outcome"]["reason"]]
        assert report["metrics"]["click"]["test"]["auc"]["value"] < 0.4
        assert report["metrics"]["click"]["test"]["ne"]["value"] > 1
        assert shop.champion() is None


def test_a_model_that_ranks_backwards_is_not_promoted(ctr: Ctr, tmp_path: Path) -> None:
    refuse_backwards(Shop(ctr, tmp_path), log(), runs=1)


@pytest.mark.nightly
def test_the_better_successor_of_a_refused_model_is_promoted(ctr: Ctr, tmp_path: Path) -> None:
    shop, good = Shop(ctr, tmp_path), log()
    refuse_backwards(shop, good, runs=1)
    report, _ = shop.run(good, expect=0)
    assert report["outcome"] == {"status": "promoted", "step": None, "reason": None}
    assert shop.champion() is not None


@pytest.mark.nightly
def test_a_test_without_positives_is_named_and_nothing_is_promoted(ctr: Ctr, tmp_path: Path) -> None:
    shop, good = Shop(ctr, tmp_path), log()
    silent = good.with_columns(clicked=pl.when(pl.col("time") < TEST_STARTS).then("clicked").otherwise(0).cast(pl.Int8))
    report, said = shop.run(silent, expect=3)
    for text in (said, report["outcome"]["reason"]):
        assert "click: the test part (2026-03-09T" in text
        assert "has no positive among its" in text
    assert shop.champion() is None
    shown = ctr("report", "latest", "--data-root", tmp_path / "data").stdout
    assert "Nothing was promoted: " in shown
