"""A served model with the store is the trained model: impressions of the test days, sent as the log has them, score alike."""

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from ctr_pipeline.online.snapshot_index import INDEX, listed
from ctr_pipeline_tests.end_to_end.copies import copy_root
from ctr_pipeline_tests.end_to_end.fixtures import Finished
from ctr_pipeline_tests.end_to_end.served_history import SentRows, rows_of_test_days
from ctr_pipeline_tests.end_to_end.test_serve import ask, served

PAGES = 300
"""Requests that are sent."""


@pytest.fixture(scope="module")
def tested(finished: Finished) -> SentRows:
    [logs] = (finished.data_root.parent / "simulated_logs").iterdir()
    return rows_of_test_days(finished.data_root, logs / "impressions")


def test_test_rows_score_through_store_hashing_and_http_as_in_training(
    finished: Finished, tested: SentRows, config_home: Path, tmp_path: Path
) -> None:
    days = {one.day for one in listed(finished.data_root / "online")}
    assert {datetime.fromtimestamp(ts / 1e6, UTC).date() for ts in tested.rows["ts"]} <= days
    pages, worst, sent = tested.pages(), 0.0, 0
    # What is served is logged in the data root.
    root = copy_root(finished.data_root, tmp_path / "run")
    with served(root, config_home, tmp_path / "log") as url:
        for at in pages[:: max(1, len(pages) // PAGES)]:
            answer = json.loads(ask(f"{url}/score", tested.page(at)))
            worst, sent = max(worst, difference(answer, tested.scores[at])), sent + len(at)
        # Without the time, the past is that of now, for which there is no snapshot of the day.
        some = tested.page(pages[0])
        some["shared"].pop("ts")
        ask(f"{url}/score", some)
        counts, model = ask(f"{url}/metrics").decode(), json.loads(ask(f"{url}/model"))
        ready = json.loads(ask(f"{url}/readyz"))
    assert worst <= 1e-5
    assert sent > 1000
    newest = max(days).isoformat()
    assert (model["history"]["day"], model["history"]["late"], model["history"]["problem"]) == (newest, True, None)
    assert model["history"]["keys"]["user"]["fields"] == ["user", "user_id"]
    assert ready == {"ready": True, "history_day": newest, "history_late": True}
    assert f"ctr_serve_late_history_total {len(pages[0]):.1f}" in counts
    user = str(tested.rows["user_id"][0])
    assert user not in (tmp_path / "log").read_text()
    assert f'"{user}"' not in counts


def test_a_store_without_the_days_scores_otherwise(
    finished: Finished, tested: SentRows, config_home: Path, tmp_path: Path
) -> None:
    """What the test above compares depends on the store."""
    root, pages = copy_root(finished.data_root, tmp_path / "run"), tested.pages()[:40]
    shutil.rmtree(root / "online")
    (root / "online").mkdir()

    def worst(url: str) -> float:
        return max(difference(json.loads(ask(f"{url}/score", tested.page(at))), tested.scores[at]) for at in pages)

    with served(root, config_home, tmp_path / "log") as url:
        assert worst(url) > 1e-3
        # The service finds a snapshot that appears while it runs.
        for path in (finished.data_root / "online").iterdir():
            if path.is_dir():
                shutil.copytree(path, root / "online" / path.name)
        shutil.copy(finished.data_root / "online" / INDEX, root / "online" / INDEX)
        assert worst(url) <= 1e-5


def difference(answer: dict, expected: np.ndarray) -> float:
    found = np.array(list(answer["scores"].values())).T
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max())
