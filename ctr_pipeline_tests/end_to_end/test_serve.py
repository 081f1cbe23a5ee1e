"""`ctr serve` answers with the champion's scores, for the raw ids of the log."""

import json
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from ctr_pipeline.lake import Lake
from ctr_pipeline.serving import Bundle
from ctr_pipeline_tests.end_to_end.copies import copy_root
from ctr_pipeline_tests.end_to_end.fixtures import CTR, Finished, environment, free_port


@contextmanager
def served(data_root: Path, config_home: Path, log: Path) -> Iterator[str]:
    """The address of the service while it runs; it must end well when it is told to."""
    url = f"http://127.0.0.1:{free_port()}"
    with log.open("w") as output:
        process = subprocess.Popen(
            [str(CTR), "serve", "--data-root", str(data_root), "--port", url.rpartition(":")[2],
             "--workers", "2"],
            env=environment(config_home), stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while True:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, "it did not answer within 120 s"
            try:
                urllib.request.urlopen(f"{url}/healthz", timeout=5).close()
                break
            except OSError:
                time.sleep(0.2)
        yield url
        process.terminate()
        assert process.wait(20) == 0
    finally:
        process.kill()


GIVEN = {"user_ctr_7d": 0.05, "historical_ctr_7d": None, "query_ctr_7d": None, "time_since_last_purchase": None}
"""Of the past, so that nothing is looked up."""


def ask(url: str, content: Any = None) -> bytes:
    body = None if content is None else json.dumps(content).encode()
    request = urllib.request.Request(url, data=body, headers={"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=20) as response:
        found: bytes = response.read()
        return found


def test_the_score_of_a_raw_id_is_that_of_its_pseudonym_in_the_log(
    finished: Finished, config_home: Path, tmp_path: Path
) -> None:
    bundle = Bundle.open(next(finished.data_root.glob("training/*/bundle")))
    known = pl.read_parquet(bundle.directory / "vocabulary.parquet").filter(pl.col("feature") == "user_id")["key"]
    stored = Lake(finished.data_root / "lake").scan("impressions").collect()
    # The busiest users are in the vocabulary; what stands in the table at an impression is the oracle.
    [logs] = (finished.data_root.parent / "simulated_logs").iterdir()
    raw = pl.read_parquet(logs / "impressions" / "*.parquet")["user_id"].value_counts(sort=True)["user_id"].head(100)
    hashed = stored["user_id"].value_counts(sort=True)["user_id"].head(100)
    names = [name for name in bundle.inputs if name != "user_id" and name in stored.columns]
    row = stored.select(names).row(0, named=True)
    # What is served is logged in the data root.
    root = copy_root(finished.data_root, tmp_path / "run")
    with served(root, config_home, tmp_path / "log") as url:
        answers = [json.loads(ask(f"{url}/score", {"shared": {**row, "user_id": user, **GIVEN}})) for user in raw]
        counts, model = ask(f"{url}/metrics").decode(), json.loads(ask(f"{url}/model"))
    expected = bundle.score(*bundle.encode([{**row, "user_id": user, **GIVEN} for user in hashed])).probabilities
    # Users of equal counts may stand in either order.
    for at, task in enumerate(bundle.tasks):
        found = [answer["scores"][task][0] for answer in answers]
        np.testing.assert_allclose(np.sort(found), np.sort(expected[:, at]), rtol=0, atol=1e-6)
    assert known.is_in(hashed.to_list()).sum() > 50
    assert len({answer["scores"]["click"][0] for answer in answers}) > 50
    assert (model["version"], model["hashed"]) == ("1", ["user_id"])
    assert model["snapshot"] == bundle.directory.parent.name
    for answer in answers:
        scores = answer["scores"]
        assert answer["ranking_score"][0] == pytest.approx(scores["click"][0] + 20 * scores["checkout"][0], rel=1e-6)
    user = str(raw[0])
    assert user not in (tmp_path / "log").read_text()
    assert f'"{user}"' not in counts
