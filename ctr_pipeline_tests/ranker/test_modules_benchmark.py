"""What benchmarks/modules.py computes by itself; nightly, our side of each comparison for some rows."""

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from ctr_pipeline.spec.model import Model


@pytest.fixture
def benchmark(project: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(project / "benchmarks"))
    import modules

    return modules


def test_areas_are_those_of_the_weighted_rows(benchmark: ModuleType) -> None:
    random = np.random.default_rng(1)
    scores, labels = random.normal(size=500), (random.random(500) < 0.3).astype(np.int8)
    weights = random.poisson(1.0, 500).astype(np.float64)
    found = benchmark.weighted_auc(np.argsort(scores, kind="stable"), labels, weights)
    assert found == pytest.approx(roc_auc_score(labels, scores, sample_weight=weights), abs=1e-12)


def test_differences_are_those_of_the_means_over_seeds(benchmark: ModuleType) -> None:
    random = np.random.default_rng(2)
    labels = (random.random(4000) < 0.3).astype(np.int8)
    good, bad = ([labels + noise * random.normal(size=4000) for _ in range(2)] for noise in (1.0, 2.0))
    mean, low, high = benchmark.differences(good, bad, labels, 50)
    expected = np.mean([roc_auc_score(labels, a) - roc_auc_score(labels, b) for a, b in zip(good, bad, strict=True)])
    assert mean == pytest.approx(expected, abs=1e-12)
    assert 0 < low < mean < high
    assert benchmark.differences(good, good, labels, 20) == (0.0, 0.0, 0.0)


def test_each_model_of_ours_is_a_model(benchmark: ModuleType) -> None:
    for comparison in benchmark.COMPARISONS.values():
        made = Model.model_validate(benchmark.own_model(comparison, 6, 4, [8, 4]))
        assert made.embedding_dim == 4
    final = Model.model_validate(benchmark.own_model(benchmark.COMPARISONS["FinalMLP"], 6, 4, [8, 4]))
    contexts = [branch.interactions[0].model_dump()["context"] for branch in final.branches]
    assert contexts == [["f0", "f1", "f2"], ["f3", "f4", "f5"]]


def test_rows_fit_their_tables_and_the_second_task_is_part_of_the_first(benchmark: ModuleType) -> None:
    world = benchmark.made_world(3000, 5, 900, 1)
    assert (world.ids.min(axis=0) >= 1).all()
    assert (world.ids.max(axis=0) < world.vocabulary).all()
    assert ((world.labels[:, 1] == 1) <= (world.labels[:, 0] == 1)).all()
    assert 0.05 < world.labels[:, 0].mean() < 0.6


def test_a_library_that_is_absent_is_named_and_left_out(benchmark: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "absent.py").write_text(
        "import sys\nprint(\"No module named 'fuxictr'\", file=sys.stderr)\nsys.exit(4)\n"
    )
    found = benchmark.run_side([sys.executable, str(tmp_path / "absent.py")], {"threads": 1}, tmp_path / "side")
    assert found == "not installed: No module named 'fuxictr'"


@pytest.mark.nightly
def test_our_side_runs(
    benchmark: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = "--rows 2000 --test-rows 500 --fields 6 --ids 300 --width 4 --hidden 8 --batch 256 --seeds 1 --replicates 2"
    monkeypatch.setattr(sys, "argv", ["modules.py", *small.split()])
    assert benchmark.main() == 0
    shown = capsys.readouterr().out
    assert shown.count("ours, fp32") == 3
    assert "failed" not in shown
