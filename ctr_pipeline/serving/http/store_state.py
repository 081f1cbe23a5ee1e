"""What the service tells of its store of history features."""

from datetime import UTC, datetime
from typing import Any

from ctr_pipeline.serving.history_lookup import StoreState
from ctr_pipeline.serving.http.request_history import RequestHistory


def described_store(history: RequestHistory) -> dict[str, Any]:
    """For ``GET /model``: the fields by which is looked up, what is found so, and the snapshot in use."""
    state = history.state()
    return {
        "keys": {
            key: {"fields": history.sources[key].fields, "inputs": [name for group in groups for name in group]}
            for key, groups in history.store.inputs.items()
        },
        "snapshot": state.snapshot,
        "day": state.day,
        "late": state.late,
        "problem": state.problem,
    }


def readiness(history: RequestHistory | None) -> dict[str, Any]:
    """For ``GET /readyz``: the model is open and has scored its golden rows; a store has a snapshot."""
    if history is None:
        return {"ready": True}
    state = history.state()
    return {"ready": state.ready, "history_day": state.day, "history_late": state.late}


def day_seconds(state: StoreState) -> float:
    """Beginning of the day of the snapshot in use, in seconds since 1970 UTC; 0 for none."""
    return 0.0 if state.day is None else datetime.fromisoformat(state.day).replace(tzinfo=UTC).timestamp()
