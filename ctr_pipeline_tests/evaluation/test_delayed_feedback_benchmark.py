"""What benchmarks/delayed_feedback.py computes by itself: changed specs, naive labels, and the excess over the truth."""

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import yaml
from scipy import special

from ctr_pipeline.spec import parse_spec


@pytest.fixture
def benchmark(project: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(project / "benchmarks"))
    import delayed_feedback

    return delayed_feedback


def test_each_loss_makes_a_valid_spec_that_changes_the_late_tasks_alone(benchmark: ModuleType, project: Path) -> None:
    content = yaml.safe_load((project / "specs" / "credit.yaml").read_text(encoding="utf-8"))
    late = benchmark.late_tasks(content)
    assert late == ["application", "conversion", "approval"]
    for loss, kind in benchmark.KINDS.items():
        spec = parse_spec(yaml.safe_dump(benchmark.with_loss(content, loss, late)), "credit")
        assert [task.objective.model_dump()["loss"]["kind"] for task in spec.tasks[1:]] == [kind] * 3
        assert spec.tasks[0].objective.model_dump()["loss"]["kind"] == "binary_cross_entropy"


def test_an_open_label_is_naively_what_is_known_of_it_so_far(benchmark: ModuleType) -> None:
    nan = np.nan
    labels = np.array([[1], [0], [-1], [-1], [-1]], np.int8)
    elapsed = np.array([[9], [9], [3], [3], [nan]], np.float32)
    delay = np.array([[2], [nan], [1], [nan], [nan]], np.float32)
    assert benchmark.naive_labels(labels, elapsed, delay).tolist() == [[1], [0], [1], [0], [-1]]


def test_the_excess_is_the_divergence_from_the_truth_over_the_entropy_of_its_mean(benchmark: ModuleType) -> None:
    p = np.array([0.1, 0.4])
    assert benchmark.excess_ne(p, special.logit(p)) == pytest.approx(0, abs=1e-12)
    # By hand: the mean rate .25 for both rows.
    by_hand = 0.1 * np.log(0.4) + 0.9 * np.log(1.2) + 0.4 * np.log(1.6) + 0.6 * np.log(0.8)
    entropy = -0.25 * np.log(0.25) - 0.75 * np.log(0.75)
    found = benchmark.excess_ne(p, np.full(2, special.logit(0.25)))
    assert found == pytest.approx(by_hand / 2 / entropy, rel=1e-12)


def test_the_excess_of_a_step_does_not_see_how_well_the_one_before_it_is_known(benchmark: ModuleType) -> None:
    p = np.array([[0.1, 0.02], [0.4, 0.2]])
    conditional = p[:, 1] / p[:, 0]
    wrong_parent = np.array([0.3, 0.05])
    assert benchmark.step_excess_ne(p, np.stack([wrong_parent, wrong_parent * conditional], 1)) == pytest.approx(
        0, abs=1e-12
    )
    q = np.stack([wrong_parent, wrong_parent * np.array([0.3, 0.3])], 1)
    by_hand = 0.1 * (0.2 * np.log(0.2 / 0.3) + 0.8 * np.log(0.8 / 0.7)) + 0.4 * (
        0.5 * np.log(0.5 / 0.3) + 0.5 * np.log(0.5 / 0.7)
    )
    rate = 0.22 / 0.5
    entropy = -rate * np.log(rate) - (1 - rate) * np.log(1 - rate)
    assert benchmark.step_excess_ne(p, q) == pytest.approx(by_hand / 0.5 / entropy, rel=1e-12)
