"""What Dagster's page shows of a training that failed."""

from typing import Any

import dagster as dg

from ctr_pipeline.orchestration.training_failure import failure_metadata

FAILURE: dict[str, Any] = {
    "reason": "Training stopped: step 0",
    "cause": {
        "kind": "contract",
        "message": "step 0: contract table_scale",
        "tensor": "table",
        "feature": "ad",
        "step": 0,
    },
    "findings": [],
    "evidence": "/data/failed trainings/a",
    "mlflow": {},
}
NAMED = {"cause": "new_embedding_huge", "location": "ad", "score": 0.96, "fix": "start near 0", "evidence": "259 times"}


def test_the_triage_is_in_the_metadata_of_the_failed_step() -> None:
    found = failure_metadata(FAILURE | {"triage": {"sure": True, "hypotheses": [NAMED]}})
    assert found["triage"] == "Cause: new_embedding_huge at ad. Fix: start near 0."
    [row] = found["hypotheses"].records
    assert (row.data["cause"], row.data["at"], row.data["fix"]) == ("new_embedding_huge", "ad", "start near 0")
    assert found["why"] == "ctr why '/data/failed trainings/a'"
    # Dagster takes all of it.
    assert isinstance(dg.Failure("it broke", metadata=found), dg.Failure)


def test_a_failure_without_triage_still_says_how_to_get_one() -> None:
    found = failure_metadata(FAILURE)
    assert "triage" not in found
    assert "hypotheses" not in found
    assert found["why"].startswith("ctr why")
    assert "unknown" in failure_metadata(FAILURE | {"triage": {"sure": False, "hypotheses": []}})["triage"]
