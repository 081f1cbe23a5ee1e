"""docs/modules.md: its toy module is code that runs, and keeps to what holds for every module."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from ctr_pipeline.gradients.testing import TrainingSetup, assert_passed, check_cross_sample, check_finite_differences
from ctr_pipeline.ranker import build_ranker
from ctr_pipeline.ranker.interactions import register_interaction
from ctr_pipeline.spec import interactions
from ctr_pipeline_tests.every_module import layout_of, model_of


def test_the_module_of_the_page_works(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (project / "docs" / "modules.md").read_text(encoding="utf-8")
    section, module, test, *_ = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    # What the file of the sections imports already.
    space: dict[str, Any] = {**vars(interactions), "__name__": "modules_page"}
    exec(section, space)
    toy = space["SquareRoots"]
    monkeypatch.setattr(interactions, "SquareRoots", toy, raising=False)
    exec(module, space)
    register_interaction("square_roots", space["build"], toy)
    exec(test, space)
    space["test_known_values"]()

    ranker = build_ranker(layout_of(), model_of(toy(width=4)), 1)
    ids = torch.randint(0, 15, (16, 6), generator=torch.Generator().manual_seed(1))
    setup = TrainingSetup(
        model=ranker, batch=(torch.randn(16, 2), ids), forward=lambda model, own: model(*own),
        loss=lambda logits, _: logits.square().mean(),
    )  # fmt: skip
    assert_passed(check_finite_differences(setup), check_cross_sample(setup))
