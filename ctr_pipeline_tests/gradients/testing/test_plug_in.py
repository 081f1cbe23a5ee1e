"""The plug-in as a user meets it: a class of tests in a project of one's own."""

from pathlib import Path

import pytest

from ctr_pipeline.gradients.testing import check_golden_losses

pytest_plugins = ["pytester"]

USER_TESTS = """
import pytest
import torch
from torch import nn
from ctr_pipeline.gradients.testing import GradientTests, TrainingSetup

class TestMine(GradientTests):
    golden_losses = "golden.json"

    @pytest.fixture
    def setup(self):
        torch.set_num_threads(1)
        torch.manual_seed(0)
        model = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))
        ids = torch.randint(0, 7, (16, 2))
        return TrainingSetup(
            model=model,
            batch=(ids, (ids[:, 0] > 3).float()),
            forward=lambda model, batch: model(batch[0]).squeeze(1),
            loss=lambda z, batch: FACTOR * nn.functional.binary_cross_entropy_with_logits(z, batch[1]),
            labels=lambda batch: batch[1],
            optimizers=[torch.optim.AdamW(model.parameters(), lr=0.05)],
        )
"""


def test_a_class_of_tests(pytester: pytest.Pytester) -> None:
    pytester.makeconftest('pytest_plugins = ["ctr_pipeline.gradients.testing"]')
    pytester.makepyfile(USER_TESTS.replace("FACTOR", "1"))
    result = pytester.runpytest_subprocess("-rs", "--update-golden-losses", "-p", "no:xdist", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=14, skipped=3)
    result.stdout.fnmatch_lines(["*the setup has no `without_labels`*", "*the setup has no `clip`*"])
    assert (pytester.path / "golden.json").is_file()
    pytester.makepyfile(USER_TESTS.replace("FACTOR", "-1"))
    result = pytester.runpytest_subprocess("-p", "no:xdist", "-p", "no:cacheprovider")
    failed = {line.split("::")[-1].split(" ")[0] for line in result.outlines if line.startswith("FAILED")}
    assert failed == {"test_logit_gradient", "test_golden_losses"}
    result.stdout.fnmatch_lines(["*sign_flip: r = −1: the loss has the wrong sign*"])


def test_golden_losses_are_compared_to_the_bit(tmp_path: Path) -> None:
    file = tmp_path / "golden.json"
    assert check_golden_losses([0.7, 0.1 + 0.2], file).verdict == "not_measured"
    assert check_golden_losses([0.7, 0.1 + 0.2], file).verdict == "passed"
    changed = check_golden_losses([0.7, 0.3], file)
    assert (changed.failed, changed.where) == (True, "step 1")
    assert check_golden_losses([0.7], file).failed
    assert check_golden_losses([0.7, float("nan")], file).failed
    file.write_text(file.read_text().replace("torch ", "torch of another time "))
    assert check_golden_losses([0.7, 0.3], file).verdict == "passed"
    assert check_golden_losses([0.7, 0.301], file).failed
    assert check_golden_losses([0.5], file, update=True).verdict == "passed"
    assert check_golden_losses([0.5], file).verdict == "passed"
