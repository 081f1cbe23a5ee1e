"""Where alerts go: a file of JSON lines, and a webhook where one is set."""

import json
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dagster as dg


class NotifierResource(dg.ConfigurableResource):
    """Appends alerts to a file, posts them to a webhook, and stays silent about what it said within the hour."""

    path: str
    """File of JSON lines; its past lines are the memory against repeats."""
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
        file = Path(self.path)
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a", encoding="utf-8") as lines:
            lines.writelines(json.dumps(alert, sort_keys=True) + "\n" for alert in fresh)
        if self.webhook_url:
            self._post(fresh)
        return len(fresh)

    def _recent_keys(self, now: float) -> set[str]:
        file = Path(self.path)
        if not file.exists():
            return set()
        with file.open(encoding="utf-8") as lines:
            past = [json.loads(line) for line in lines if line.strip()]
        return {alert["key"] for alert in past if now - alert["sent_at"] < self.repeat_after_seconds}

    def _post(self, alerts: list[dict[str, Any]]) -> None:
        body = json.dumps({"text": "\n".join(alert["message"] for alert in alerts), "alerts": alerts}).encode()
        request = urllib.request.Request(
            self.webhook_url, data=body, headers={"Content-Type": "application/json"}, method="POST"
        )
        with urllib.request.urlopen(request, timeout=10):
            pass
