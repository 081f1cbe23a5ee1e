"""Where alerts go: a file of JSON lines, and a webhook where one is set."""

import json
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dagster as dg

POST_ATTEMPTS = 3


class NotifierResource(dg.ConfigurableResource):
    """Appends alerts to a file, posts them to a webhook, and leaves out those that it sent within the hour."""

    path: str
    """File of JSON lines; an alert among its recent lines is not sent again."""
    webhook_url: str = ""
    """Where to POST each batch as JSON; empty for none."""
    repeat_after_seconds: int = 3600
    """The same alert (asset, check, partition, severity) is not repeated within this time."""

    def notify(self, alerts: Sequence[dict[str, Any]], now: float) -> int:
        """Sends the alerts that were not sent lately, as one batch.

        Args:
            alerts: JSON-able alerts; ``key`` identifies repeats.
            now: Seconds since 1970.

        Returns:
            The number of alerts sent.
        """
        recent = self._recent_keys(now)
        fresh = list({a["key"]: {**a, "sent_at": now} for a in alerts if a["key"] not in recent}.values())
        if not fresh:
            return 0
        delivered = self._post(fresh) if self.webhook_url else True
        file = Path(self.path)
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a", encoding="utf-8") as lines:
            # What the webhook did not take may be sent again.
            kept = fresh if delivered else [{**alert, "sent_at": 0.0, "undelivered": True} for alert in fresh]
            lines.writelines(json.dumps(alert, sort_keys=True) + "\n" for alert in kept)
        return len(fresh) if delivered else 0

    def _recent_keys(self, now: float) -> set[str]:
        file = Path(self.path)
        if not file.exists():
            return set()
        recent = set()
        for line in file.read_text(encoding="utf-8").splitlines():
            try:
                alert = json.loads(line)
                if now - alert["sent_at"] < self.repeat_after_seconds:
                    recent.add(alert["key"])
            except (ValueError, KeyError, TypeError):
                # A line cut short by a full disk must not stop the alerts that follow.
                continue
        return recent

    def _post(self, alerts: list[dict[str, Any]]) -> bool:
        body = json.dumps({"text": "\n".join(alert["message"] for alert in alerts), "alerts": alerts}).encode()
        request = urllib.request.Request(
            self.webhook_url, data=body, headers={"Content-Type": "application/json"}, method="POST"
        )
        for attempt in range(POST_ATTEMPTS):
            try:
                with urllib.request.urlopen(request, timeout=10):
                    return True
            except OSError:
                time.sleep(2**attempt)
        return False
