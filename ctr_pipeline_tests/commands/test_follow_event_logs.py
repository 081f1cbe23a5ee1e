"""Events of logs reach a canary as those of requests do."""

import json
from pathlib import Path
from types import SimpleNamespace

from ctr_pipeline.commands.follow_event_logs import FollowedLogs
from ctr_pipeline.online.event_store import EventStore
from ctr_pipeline.serving.history_lookup import IMPRESSION
from ctr_pipeline.serving.http import ServiceMetrics
from ctr_pipeline_tests.features.pasts import SPEC
from ctr_pipeline_tests.serving.http.test_events import KEY, NOW, history_of
from ctr_pipeline_tests.serving.http.test_trial_outcomes import Told


def test_a_canary_is_told_of_the_events_of_a_log(tmp_path: Path) -> None:
    logs, told = tmp_path / "logs", Told()
    logs.mkdir()
    events = [
        {"event": IMPRESSION, "impression_id": "i1", "ts": NOW - 9, "keys": {"user": "u1", "ad": "a1"}},
        {"event": "click", "impression_id": "i1", "ts": NOW - 5},
        {"event": "no such event"},
    ]
    (logs / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    history = history_of(EventStore(tmp_path / "store", SPEC), tmp_path / "none")
    models = SimpleNamespace(current=SimpleNamespace(event_histories=[history]))
    followed = FollowedLogs(models, logs, ServiceMetrics(), told)  # type: ignore[arg-type]
    for _ in range(3):
        followed.step()
    followed.stop()
    assert [(event.kind, event.impression) for event in told.events] == [
        (kind, KEY.of_text("i1")) for kind in (IMPRESSION, "click")
    ]
