"""Counts and durations of a service in the text format of Prometheus."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.multiprocess import MultiProcessCollector

from ctr_pipeline.serving.history_lookup import Stored
from ctr_pipeline.serving.release import Arm

SECONDS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.008, 0.012, 0.02, 0.05, 0.1, 0.25, 1.0, 5.0)
DIFFERENCES = (1e-4, 1e-3, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
CANDIDATES = (1, 2, 5, 10, 20, 50, 100, 200, 300, 500, 1000, 2000, 5000)

OTHER_PATH = "other"
"""Stands for paths that the service does not have: their texts are the senders'."""


class ServiceMetrics:
    """The metrics of one service. No label holds what a sender wrote.

    Args:
        folder: Where the processes of one service share their counts; None where there is one process. The library
            shares them only where the variable PROMETHEUS_MULTIPROC_DIR named the folder when it was loaded.
    """

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "ctr_serve_requests", "Answered requests.", ["path", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "ctr_serve_request_seconds", "Time from the first byte of a request to its answer.", ["path"],
            buckets=SECONDS, registry=self._registry,
        )  # fmt: skip
        self._candidates = Histogram(
            "ctr_serve_candidates", "Candidates of a scored request.", buckets=CANDIDATES, registry=self._registry
        )
        self._errors = Counter(
            "ctr_serve_errors", "Requests that were not answered as asked, by kind.", ["kind"], registry=self._registry
        )
        self._unknown = Counter(
            "ctr_serve_unknown_ids", "Values that the model's vocabulary does not hold.", ["feature"],
            registry=self._registry,
        )  # fmt: skip
        self._keys = Counter(
            "ctr_serve_history_keys", "Keys without a past, and key columns that a request lacks.", ["key", "kind"],
            registry=self._registry,
        )  # fmt: skip
        self._events = Counter(
            "ctr_serve_events", "Events by what became of them.", ["outcome"], registry=self._registry
        )
        self._unreadable = Counter(
            "ctr_serve_event_log_unreadable", "Lines of the event logs that were passed over, by reason.", ["reason"],
            registry=self._registry,
        )  # fmt: skip
        # Of the process that reads, and after it of the one that took over.
        self._log_behind = Gauge(
            "ctr_serve_event_log_behind_bytes", "Bytes of the event logs that wait to be read.",
            registry=self._registry, multiprocess_mode="mostrecent",
        )  # fmt: skip
        self._log_newest = Gauge(
            "ctr_serve_event_log_newest_seconds",
            "Latest time (seconds since 1970 UTC) of an event of the logs that was read; 0 for none.",
            registry=self._registry, multiprocess_mode="mostrecent",
        )  # fmt: skip
        self._late = Counter(
            "ctr_serve_late_history", "Candidates whose past was not that of their own day.", registry=self._registry
        )
        self._store_day = Gauge(
            "ctr_serve_history_day_seconds",
            "Beginning of the day (seconds since 1970 UTC) of the snapshot in use; 0 for none.",
            registry=self._registry, multiprocess_mode="livemin",
        )  # fmt: skip
        self._logged = Counter(
            "ctr_serve_log_requests", "Requests for the log, by what became of them.", ["outcome"],
            registry=self._registry,
        )  # fmt: skip
        self._arm_seconds = Histogram(
            "ctr_serve_arm_seconds", "Time of scoring a request, by arm.", ["arm"], buckets=SECONDS,
            registry=self._registry,
        )  # fmt: skip
        self._seconds_of = {arm: self._arm_seconds.labels(arm) for arm in Arm}
        self._arm_failures = Counter(
            "ctr_serve_arm_failures", "Requests that the challenger could not score, and the champion could, by arm.",
            ["arm", "kind"], registry=self._registry,
        )  # fmt: skip
        self._canary_impressions = Counter(
            "ctr_serve_canary_impressions", "Impressions of a canary, by arm: kept, so that their outcomes are counted, or left_out.",
            ["arm", "outcome"], registry=self._registry,
        )  # fmt: skip
        self._differences = Histogram(
            "ctr_serve_shadow_logit_difference", "Largest difference in logit of a request scored in shadow, by task.",
            ["task"], buckets=DIFFERENCES, registry=self._registry,
        )  # fmt: skip
        self._swaps = Counter(
            "ctr_serve_swaps", "Changes of the models that are served, by result.", ["result"], registry=self._registry
        )
        self._refused = Gauge(
            "ctr_serve_refused_versions", "Versions that the registry names and that are not served.",
            registry=self._registry, multiprocess_mode="livemax",
        )  # fmt: skip
        self._canary = Gauge(
            "ctr_serve_canary_share", "Share of the users that the challenger answers.",
            registry=self._registry, multiprocess_mode="livemax",
        )  # fmt: skip

    def canary_impressions(self, arm: Arm, outcome: str, number: int) -> None:
        """Counts impressions of a canary whose outcomes are awaited, or not."""
        self._canary_impressions.labels(arm, outcome).inc(number)

    def logged(self, outcome: str) -> None:
        """Counts a request that was written to the log, or why it was not."""
        self._logged.labels(outcome).inc()

    def events(self, stored: Stored) -> None:
        """Counts what became of the events of a request."""
        for outcome in ("accepted", "repeated", "too_old"):
            self._events.labels(outcome).inc(getattr(stored, outcome))

    def log_read(self, reasons: Sequence[str], behind: int, newest: int) -> None:
        """Counts lines of event logs that were passed over, and sets what is left.

        Args:
            reasons: Why, one for each line.
            behind: Bytes that wait to be read.
            newest: Latest time of an event, microseconds since 1970 UTC; 0 for none.
        """
        for reason in reasons:
            self._unreadable.labels(reason).inc()
        self._log_behind.set(behind)
        self._log_newest.set(newest / 1e6)

    def looked_up(self, unknown: Mapping[str, int], absent: Sequence[str], late: int) -> None:
        """Counts what a store did not find, by key column."""
        for key, count in unknown.items():
            if count:
                self._keys.labels(key, "unknown").inc(count)
        for key in absent:
            self._keys.labels(key, "absent").inc()
        if late:
            self._late.inc(late)

    def stored_day(self, seconds: float) -> None:
        """Sets the day of the snapshot in use, as seconds since 1970 UTC at which it begins."""
        self._store_day.set(seconds)

    def answered(self, path: str, status: int, seconds: float) -> None:
        """Counts an answer; ``path`` is one of the service or :data:`OTHER_PATH`."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def failed(self, kind: str) -> None:
        """Counts a request that was not answered as asked."""
        self._errors.labels(kind).inc()

    def scored(self, candidates: int, unknown: Mapping[str, int]) -> None:
        """Counts the candidates of a request, and the unknown ids by feature."""
        self._candidates.observe(candidates)
        for feature, count in unknown.items():
            self._unknown.labels(feature).inc(count)

    def arm_scored(self, arm: Arm, seconds: float) -> None:
        """Counts a request that was scored in an arm."""
        self._seconds_of[arm].observe(seconds)

    def arm_failed(self, arm: Arm, kind: str) -> None:
        """Counts a request that an arm could not score, though the champion could."""
        self._arm_failures.labels(arm, kind).inc()

    def shadow_differences(self, differences: Mapping[str, float]) -> None:
        """Counts how a request's scores in the shadow differ, by task."""
        for task, difference in differences.items():
            self._differences.labels(task).observe(difference)

    def swapped(self, result: str) -> None:
        """Counts a change of the models: ``served``, or ``failed`` where the old ones go on."""
        self._swaps.labels(result).inc()

    def served(self, refused: int, share: float) -> None:
        """Sets how many versions are refused, and the share of the canary."""
        self._refused.set(refused)
        self._canary.set(share)

    def text(self) -> bytes:
        """All of them, over all processes."""
        registry = self._registry
        if self._folder is not None:
            registry = CollectorRegistry()
            MultiProcessCollector(registry, path=str(self._folder))  # type: ignore[no-untyped-call]
        return generate_latest(registry)
