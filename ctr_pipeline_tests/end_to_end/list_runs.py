"""A run whose model reads lists of the past, looks back from the request, and ranks by a bid; made once for all tests."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from ctr_pipeline_tests.built_once import built_once

# Lists of events and of the user's own favourites, lists of hashed ids, and moments up to the request.
PASTS = [
    {"name": "recent", "kind": "sequence", "key": "user", "events": ["impression", "click"], "item": "category_id", "length": 20, "days": 7},
    {"name": "ads_clicked", "kind": "sequence", "key": "user", "task": "click", "item": "ad_id", "length": 3, "days": 7},
    {"name": "viewers", "kind": "sequence", "key": "ad_id", "task": "click", "item": "user_id", "length": 2, "days": 7},
    {"name": "liked", "kind": "top", "key": "user", "task": "click", "item": "category_id", "length": 5},
    {"name": "ad_age_seen", "kind": "first_seen", "key": "ad_id"},
    {"name": "last_click", "kind": "recency", "key": "user", "task": "click", "days": 5, "exact": True},
]  # fmt: skip


@dataclass(frozen=True)
class ListRun:
    """What a `ctr run` left."""

    spec: Path
    data_root: Path


@pytest.fixture(scope="session")
def list_run(small_spec: Path, ctr: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> ListRun:
    """One run for the whole test session; tests that change something copy it first."""
    content = yaml.safe_load(small_spec.read_text(encoding="utf-8"))
    content["source"]["simulator"].update(days=14, sessions_per_day=800, users=1000)
    content["features"]["history"] += PASTS
    content["model"] |= {
        "sequences": ["target_attention"], "multi_task": {"kind": "mmoe"}, "interactions": ["cross"], "position": {"kind": "additive"},
    }  # fmt: skip
    content["serving"]["candidate_features"] += ["viewers", "ad_age_seen"]
    content["serving"] |= {
        "score": [{"task": "click", "bid": "price"}, {"task": "checkout", "weight": 20}],
        "embedding_storage": "fp16",
        # The machine of a test may be busy.
        "budget_ms": None,
    }
    content["quality"] = {"better_than_position": False}

    def run(folder: Path) -> None:
        (folder / "lists.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
        ctr("run", "--spec", folder / "lists.yaml", "--data-root", folder / "marketplace" / "data")

    folder = built_once(tmp_path_factory, "lists", run)
    return ListRun(folder / "lists.yaml", folder / "marketplace" / "data")
