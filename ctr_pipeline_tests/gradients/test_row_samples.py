"""Samples of packed rows: outcomes are balanced, and come from equally many neighbouring rows."""

from dataclasses import replace

import numpy as np
import pytest

from ctr_pipeline.gradients.adapters import row_samples
from ctr_pipeline.gradients.adapters.ranker_contracts import profile
from ctr_pipeline.training.drilling.made_up_rows import LAYOUT, make_rows


def test_pairs_hold_as_many_rows_with_and_without_each_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_samples, "WINDOW", 3000)
    monkeypatch.setattr(row_samples, "OF_EACH", 400)
    training, reference = make_rows(9000, 1), make_rows(5000, 2)
    # Each row knows its place.
    training.numeric[:, 1], reference.numeric[:, 1] = np.arange(9000), np.arange(5000)
    pairs = list(row_samples.paired_samples(training, reference, LAYOUT))
    assert [own.tasks for own, _ in pairs] == [["click"], ["cart"]]
    for task, (own, other) in enumerate(pairs):
        for sample, rows, first in ((own, training, 6000), (other, reference, 0)):
            counts = np.bincount(sample.labels[:, 0], minlength=2)
            available = np.bincount(
                rows.labels[first : first + 3000, task][rows.labels[first : first + 3000, task] >= 0]
            )
            assert counts.tolist() == np.minimum(available, 400).tolist()
            places = sample.numbers[:, 1]
            assert (np.diff(places) > 0).all()
            assert first <= places.min() < places.max() < first + 3000
            assert (sample.labels[:, 0] == rows.labels[places.astype(int), task]).all()


def test_a_task_without_labels_is_passed_over() -> None:
    training, reference = make_rows(2000, 1), make_rows(2000, 2)
    for rows in (training, reference):
        rows.labels[:, 1] = -1
    found = {outcome.name: outcome for outcome in profile(training, LAYOUT, reference)}
    assert found["label_alignment"].verdict == "passed"
    none = replace(training, labels=np.full_like(training.labels, -1))
    found = {outcome.name: outcome for outcome in profile(none, LAYOUT, reference)}
    assert found["label_alignment"].verdict == "not_measured"
    assert "label_alignment" not in {outcome.name for outcome in profile(training, LAYOUT)}


def test_rare_outcomes_are_enough_to_see_permuted_labels() -> None:
    """Of 60,000 rows a click in fifty: an evenly spread sample of some thousand rows would say nothing."""
    training, reference = make_rows(60_000, 1), make_rows(60_000, 2)
    rng = np.random.default_rng(3)
    for rows in (training, reference):
        rows.labels[(rows.labels[:, 0] == 1) & (rng.random(60_000) < 0.93)] = 0
    assert training.labels[:, 0].mean() < 0.025
    healthy = {outcome.name: outcome for outcome in profile(training, LAYOUT, reference)}
    assert healthy["label_alignment"].verdict == "passed"
    permuted = replace(training, labels=training.labels[rng.permutation(60_000)])
    found = {outcome.name: outcome for outcome in profile(permuted, LAYOUT, reference)}
    assert found["label_alignment"].failed
