"""`ctr explain --impression` on a whole run, and the rows on which two retrains are compared."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ctr_pipeline.attribution.compare_models import compare_models
from ctr_pipeline.attribution.trained_side import Encoded, ReplayError
from ctr_pipeline.commands.explain_impression import ExplainError, explain_impression
from ctr_pipeline.datasets import PackedDataset
from ctr_pipeline.deployment.paths import DataRoot
from ctr_pipeline.deployment.retrain_files import RetrainFiles
from ctr_pipeline.deployment.retrain_places import RetrainPlace
from ctr_pipeline.deployment.trained_sides import load_side, open_replay
from ctr_pipeline.lake import Lake
from ctr_pipeline.ranker.embeddings import FusedTable
from ctr_pipeline_tests.end_to_end.fixtures import Finished

ROW = 7


def retrain_of(finished: Finished) -> RetrainPlace:
    return RetrainPlace(finished.data_root, finished.report["days"]["last"])


def test_rows_of_the_tables_give_the_inputs_and_scores_that_were_packed(finished: Finished) -> None:
    retrain = retrain_of(finished)
    replay = open_replay(retrain, retrain, rows=10**6)
    paths = retrain.paths
    dataset = PackedDataset.open(paths.packed)
    test, encoded = dataset.splits["test"], replay.new.encode(replay.new_rows)
    assert (replay.how, replay.notes, len(replay.new_matched)) == ("impression", (), len(test))
    np.testing.assert_array_equal(encoded.ids, test.ids)
    np.testing.assert_array_equal(encoded.numeric, test.numeric)
    np.testing.assert_array_equal(replay.new_rows.labels, test.labels)
    logits = RetrainFiles(paths).calibrated("test", dataset.layout.tasks)
    np.testing.assert_allclose(replay.new.logits(replay.new_rows), logits, atol=1e-6)


def test_where_the_tables_are_gone_rows_are_those_of_the_packed_arrays(finished: Finished, tmp_path: Path) -> None:
    retrain = retrain_of(finished)
    for folder in ("datasets", "training"):
        shutil.copytree(finished.data_root / folder, tmp_path / folder)
    replay = open_replay(replace(retrain, root=tmp_path), retrain, rows=500)
    assert len(replay.notes) == 1
    assert "are gone" in replay.notes[0]
    assert replay.how == "time and position"
    np.testing.assert_array_equal(replay.old_matched.ts, replay.new_matched.ts)
    logits = [one.logits(rows) for one, rows in ((replay.old, replay.old_matched), (replay.new, replay.new_matched))]
    np.testing.assert_allclose(*logits, atol=1e-5)


def test_a_model_of_other_code_is_scored_by_its_exported_graph(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    retrain = retrain_of(finished)
    paths = retrain.paths
    test, trained = PackedDataset.open(paths.packed).splits["test"], RetrainFiles(paths).scores("test")
    looked_up = FusedTable._looked_up
    monkeypatch.setattr(FusedTable, "_looked_up", lambda self, ids, fields: looked_up(self, ids.clamp(max=2), fields))
    replay = open_replay(retrain, retrain, rows=200)
    np.testing.assert_allclose(replay.old.raw_logits(Encoded(test.numeric, test.ids)), trained, atol=1e-3)
    change = compare_models(replay)
    assert any("exported graph" in note for note in change.notes)
    (found, *_) = change.tasks.values()
    assert (found.grafts, found.features) == ((), ())
    assert len(found.permutation) > 0
    with pytest.raises(ReplayError, match="code of today"):
        explain_impression(finished.data_root, None, ROW)
    # Without a graph nothing says what the weights were.
    for folder in ("datasets", "training"):
        shutil.copytree(finished.data_root / folder, tmp_path / folder)
    shutil.rmtree(DataRoot(tmp_path).retrain(retrain.day).bundle)
    with pytest.raises(ReplayError, match="nor is there an exported graph"):
        load_side(replace(retrain, root=tmp_path), "old")


def test_an_impression_is_explained_by_its_hash_as_by_its_row(
    finished: Finished, ctr: Callable[..., "subprocess.CompletedProcess[str]"], tmp_path: Path
) -> None:
    retrain = retrain_of(finished)
    by_row = explain_impression(finished.data_root, None, ROW)
    hashed = by_row["impression"]["hash"]
    done = ctr("explain", "--impression", hashed, "--data-root", finished.data_root, "--json", tmp_path / "found.json")
    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert found == json.loads(json.dumps(by_row))
    assert hashed in done.stdout
    paths = retrain.paths
    logits = RetrainFiles(paths).scores("test")[ROW]
    for place, (task, scored) in enumerate(found["tasks"].items()):
        assert scored["logit"] == pytest.approx(float(logits[place]), abs=1e-4)
        added = scored["baseline_logit"] + sum(one["adds"] for one in scored["features"])
        assert added == pytest.approx(
            scored["logit"], abs=1e-3 * abs(scored["logit"] - scored["baseline_logit"]) + 1e-5
        )
        assert sum(scored["groups"].values()) == pytest.approx(sum(one["adds"] for one in scored["features"]))
        assert f"{task}: " in done.stdout
    features = {one["feature"]: one for one in found["tasks"]["click"]["features"]}
    table = Lake(retrain.lake).scan("impressions").filter(pl.col("impression_id") == hashed).collect()
    assert features["price"]["value"] == pytest.approx(table["price"][0], rel=1e-6)
    assert features["ad_id"]["value"] == table["ad_id"][0]
    # A hashed id is cut even as a hash.
    assert features["user_id"]["hashed"]
    assert re.fullmatch("[0-9a-f]{8}…", features["user_id"]["value"])


def test_what_is_not_there_is_said(
    finished: Finished, ctr: Callable[..., "subprocess.CompletedProcess[str]"], tmp_path: Path
) -> None:
    with pytest.raises(ExplainError, match=f"no impression has the hash {'0' * 32}"):
        explain_impression(finished.data_root, "0" * 32, None)
    with pytest.raises(ExplainError, match="has no row 100000000"):
        explain_impression(finished.data_root, None, 10**8)
    with pytest.raises(ExplainError, match=r"no model of 1999-01-01\. There are those of 20"):
        explain_impression(finished.data_root, None, 0, "1999-01-01")
    with pytest.raises(ExplainError, match="no retrain has a model here"):
        explain_impression(tmp_path, None, 0)
    done = ctr("explain", "--row", "1", "--impression", "0" * 32, "--data-root", finished.data_root, expect=2)
    assert "an impression is that of one retrain" in done.stderr
    # An id of the log is hashed; the message does not hold it.
    done = ctr("explain", "--impression", "no-such-id", "--data-root", finished.data_root, expect=2)
    assert "no impression has the hash" in done.stderr
    assert "no-such-id" not in done.stderr
