"""A canary from request to rollback: raw rows of the log are sent to `ctr serve`, and what they led to decides."""

import http.client
import json
import os
import shutil
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import polars as pl
import pytest
from onnx import helper

from ctr_pipeline.commands.release import Releases
from ctr_pipeline.deployment.deployment import Deployment
from ctr_pipeline.deployment.environment import Environment
from ctr_pipeline.lake import Lake
from ctr_pipeline.online.log_records import segments
from ctr_pipeline.online.logged_rows import fetch_segments
from ctr_pipeline.serving import Bundle
from ctr_pipeline.serving.bundle import write_manifest
from ctr_pipeline.serving.release import TrialMode
from ctr_pipeline_tests.end_to_end.copies import copy_root
from ctr_pipeline_tests.end_to_end.fixtures import Finished, environment
from ctr_pipeline_tests.end_to_end.test_serve import ask, served

STARTED = datetime(2026, 1, 14, tzinfo=UTC)
DAYS = (date(2026, 1, 14), date(2026, 1, 15))


def plus_one(source: Bundle, folder: Path) -> Bundle:
    """A bundle whose calibrated logits are all one higher; its golden rows say so too."""
    shutil.copytree(source.directory, folder)
    graph = onnx.load(folder / "model.onnx")
    [output] = [one for one in graph.graph.output if one.name == "probabilities"]
    for node in graph.graph.node:
        node.output[:] = ["before" if name == output.name else name for name in node.output]
        node.input[:] = ["before" if name == output.name else name for name in node.input]
    graph.graph.initializer.extend(
        [helper.make_tensor(name, onnx.TensorProto.FLOAT, [], [value]) for name, value in (("e", np.e), ("one", 1.0))]
    )
    graph.graph.node.extend(
        [
            helper.make_node("Mul", ["before", "e"], ["odds"]),
            helper.make_node("Sub", ["one", "before"], ["against"]),
            helper.make_node("Add", ["odds", "against"], ["both"]),
            helper.make_node("Div", ["odds", "both"], [output.name]),
        ]
    )
    onnx.save(graph, folder / "model.onnx")
    golden = json.loads((folder / "golden.json").read_text())
    before = np.array(golden["probabilities"])
    golden["probabilities"] = (before * np.e / (1 - before + before * np.e)).tolist()
    (folder / "golden.json").write_text(json.dumps(golden))
    write_manifest(folder, source.name, source.tasks)
    return Bundle.open(folder)


def same_again(source: Bundle, folder: Path) -> Bundle:
    """The same model under another SHA-256."""
    shutil.copytree(source.directory, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return Bundle.open(folder)


def register(releases: Releases, bundle: Bundle) -> str:
    """A further version beside the champion, with its facts."""
    registry = releases.registry
    champion = registry.version(registry.read().aliases["champion"])
    tags = {**champion.tags, "bundle_sha256": bundle.sha256, "folder": str(bundle.directory.parent)}
    return registry.tracking.register(registry.name, champion.run_id, "bundle", tags)


def replay(url: str, rows: list[dict[str, Any]]) -> set[str]:
    """Sends each row as a request; the SHA-256 of the models that answered."""
    connection, models = http.client.HTTPConnection(url.removeprefix("http://"), timeout=20), set()
    for row in rows:
        connection.request("POST", "/score", json.dumps({"shared": row}), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        content = json.loads(answer.read())
        assert answer.status == 200, content
        models.add(content["model"])
    connection.close()
    return models


@pytest.fixture
def releases(finished: Finished, config_home: Path, tmp_path: Path) -> Releases:
    root = copy_root(finished.data_root, tmp_path / "marketplace")
    deployment = Deployment.load(root)
    return Releases.of(deployment, Environment.of({**os.environ, **environment(config_home)}))


@pytest.mark.nightly
def test_a_canary_is_rolled_back_by_its_outcomes_and_a_healthy_one_is_not(
    releases: Releases, config_home: Path, tmp_path: Path, ctr: Callable[..., Any]
) -> None:
    root = releases.deployment.data_root
    champion = Bundle.open(next(root.glob("training/*/bundle")))
    healthy = register(releases, same_again(champion, tmp_path / "healthy" / "bundle"))
    broken = register(releases, plus_one(champion, tmp_path / "broken" / "bundle"))
    [logs] = (root.parent / "simulated_logs").iterdir()
    raw = pl.read_parquet(logs / "impressions" / "*.parquet")
    names = [name for name in champion.inputs if name in raw.columns]
    shown = raw.filter(pl.col("ts").dt.date().is_in(DAYS))
    rows = shown.select(*names, "impression_id", pl.col("ts").dt.epoch("us"))
    sent = rows.to_dicts()
    assert len(sent) > 5000
    lake = Lake(root / "lake")
    for version in (healthy, broken):
        releases.start(TrialMode.CANARY, version, 0.5, STARTED)
        with served(root, config_home, tmp_path / f"log-{version}") as url:
            assert len(replay(url, sent)) == 2
            assert json.loads(ask(f"{url}/model"))["trial"]["version"] == version
        found = fetch_segments(segments(releases.deployment.paths.serving_spool), DAYS)
        assert found.rows.height == len(sent)
        lake.replace_days("serving_log", found.rows, DAYS)
        shutil.rmtree(releases.deployment.paths.serving_spool)
        printed = ctr("release", "check", "--data-root", root).stdout
        status = releases.status()
        if version == healthy:
            assert status.trial is not None, printed
            releases.stop("seen enough", datetime.now(UTC))
        else:
            assert status.trial is None
            assert status.last is not None
            assert (status.last.outcome, status.last.version) == ("rolled back", broken)
            assert "observed/expected" in status.last.reason
            assert "rolled back" in printed
            assert "click" in printed
    alerts = (root / "notifications.jsonl").read_text()
    assert "canary.guardrails" in alerts
