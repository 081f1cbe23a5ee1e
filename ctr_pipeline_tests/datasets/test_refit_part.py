"""What is learnt once the epochs are chosen."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from ctr_pipeline.datasets import SPLITS, PackedDataset, SplitBounds, split_bounds
from ctr_pipeline.datasets.time_split import REFIT_ROWS
from ctr_pipeline_tests.datasets.logs import HOUR, SPEC, START, Log, a_spec, pack

DRAWN = """split:
  by: row
  test: {fraction: 0.2}
  calibration: {fraction: 0.2}
  validation: {fraction: 0.1}
"""
IN_TIME = "split:\n  test: {days: 2}\n  calibration: {days: 1}\n  validation: {days: 1}\n"


@pytest.mark.parametrize("name", ["click", "buy"])
def test_it_holds_all_that_is_known_but_what_calibrates_and_tests(log: Log, packed: PackedDataset, name: str) -> None:
    bounds, column = log.bounds(a_spec()), packed.layout.tasks.index(name)
    refit, own = packed.splits["refit"], bounds.tasks[name]
    learnt = refit.labels[:, column] >= 0
    assert refit.ts[learnt].max() < own.calibration_start
    left = np.concatenate([packed.splits[part].ts for part in ("calibration", "test")])
    assert not np.isin(refit.ts, left).any()
    # The purchase is calibrated on rows that would validate the click.
    assert (refit.ts[learnt].max() >= own.validation_start) == (name == "buy")
    for part in ("train", "validation"):
        known = packed.splits[part].ts[packed.splits[part].labels[:, column] >= 0]
        assert np.isin(known[~np.isin(known, left)], refit.ts[learnt]).all()


def test_rows_that_validate_one_task_teach_the_others_again(log: Log, packed: PackedDataset) -> None:
    """The first fit may not learn their click: it would make the purchase that they validate look better predicted."""
    validated, refit = packed.splits["validation"], packed.splits["refit"]
    click, buy = (validated.labels[:, column] >= 0 for column in range(2))
    only_buy = validated.ts[buy & ~click]
    assert len(only_buy) > 20
    assert not np.isin(only_buy, packed.splits["train"].ts).any()
    found = refit.labels[np.isin(refit.ts, only_buy), 0]
    assert len(found) > 0.9 * len(only_buy)
    assert (found >= 0).all()


def test_drawn_parts_are_learnt_again_without_calibration_and_test(log: Log, tmp_path: Path) -> None:
    assert IN_TIME in SPEC
    spec = a_spec(SPEC.replace(IN_TIME, DRAWN))
    splits = pack(tmp_path / "drawn", log, spec).splits
    expected = np.concatenate([splits["train"].ts, splits["validation"].ts])
    np.testing.assert_array_equal(np.sort(splits["refit"].ts), np.sort(expected))
    assert len(splits["calibration"]) > 100


@pytest.mark.parametrize(("section", "expected"), [("false", False), ("true", True), (None, True)])
def test_the_spec_decides(log: Log, section: str | None, expected: bool) -> None:
    bounds = log.bounds(a_spec(SPEC + (f"training: {{refit: {section}}}\n" if section else "")))
    assert ("refit" in bounds.splits) == expected
    assert set(bounds.splits) - {"refit"} == set(SPLITS)
    assert SplitBounds.from_json(bounds.to_json()) == bounds


@pytest.mark.parametrize(("by", "more"), [("in time", 0), ("in time", 1), ("row", 0), ("row", 1)])
def test_many_rows_are_learnt_once(monkeypatch: pytest.MonkeyPatch, by: str, more: int) -> None:
    assert REFIT_ROWS == 5_000_000
    spec = a_spec(SPEC if by == "in time" else SPEC.replace(IN_TIME, DRAWN))
    ts = START + np.arange(14 * 24) * HOUR
    end = int(datetime(2026, 3, 15, tzinfo=UTC).timestamp()) * 1_000_000
    # In time: 7 days and the rows of the validation and calibration are left to the first fit. Drawn: half of 12 days.
    once = split_bounds(a_spec(SPEC + "training: {refit: false}\n"), ts, end)
    first = max(of.validation_start for of in once.tasks.values())
    rows = int((ts < first).sum()) if by == "in time" else round(0.5 * int((ts + spec.longest_maturity <= end).sum()))
    monkeypatch.setattr("ctr_pipeline.datasets.time_split.REFIT_ROWS", rows + more)
    assert ("refit" in split_bounds(spec, ts, end).splits) == bool(more)
