"""Faults that leave a part of the rows or of the learning as it is: triage warns of them at least."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctr_pipeline.datasets import PackedSplit
from ctr_pipeline.gradients.drills.fault import Fault
from ctr_pipeline.gradients.triage.evidence import RunEvidence
from ctr_pipeline.gradients.triage.verdict import triage_finding
from ctr_pipeline.training.drilling.drilled_run import prepare_drill
from ctr_pipeline.training.triaging import triage_of

Rows = Callable[[PackedSplit, np.random.Generator], PackedSplit]


def half_permuted(rows: PackedSplit, rng: np.random.Generator) -> PackedSplit:
    labels, at = rows.labels.copy(), np.flatnonzero(rng.random(len(rows)) < 0.5)
    labels[at] = labels[rng.permutation(at)]
    return replace(rows, labels=labels)


def partly_collapsed(rows: PackedSplit, rng: np.random.Generator) -> PackedSplit:
    ids = rows.ids.copy()
    ids[rng.random(len(rows)) < 0.2, 1] = 57
    return replace(rows, ids=ids)


def capped_weights(rows: PackedSplit, rng: np.random.Generator) -> PackedSplit:
    weights = np.minimum(1 / rng.uniform(1e-4, 1, rows.weights.shape), 30).astype(np.float32)
    return replace(rows, weights=weights / weights.mean())


def long_momentum(training: Any, _: np.random.Generator) -> None:
    for group in training.optimizers[0].param_groups:
        group["betas"] = (0.99, 0.999)


@pytest.mark.parametrize(
    ("change", "severity", "cause"),
    [
        ({"rows": half_permuted}, "warn", "label_permute"),
        ({"rows": partly_collapsed}, "error", "hash_clip"),
        ({"rows": capped_weights}, "warn", "ips_unclipped"),
        ({"inject": long_momentum}, "error", "optimizer_settings"),
    ],
)
def test_triage_warns_of_it(change: dict[str, Any], severity: str, cause: str, tmp_path: Path) -> None:
    fault = Fault(name="partial", family="partial", symptom="", cause="", fix="", **change)
    found = triage_of(RunEvidence(), prepare_drill(fault, 1, tmp_path).build)
    assert found.top is not None
    assert (triage_finding(found).finding.severity, found.top.cause) == (severity, cause)
