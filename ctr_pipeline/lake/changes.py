"""Which versions of a table changed a day."""

import json
from datetime import date
from pathlib import Path

from ctr_pipeline.lake.tables import DAY, Lake


def versions_that_changed(lake: Lake, table: str, day: date) -> list[int]:
    """Versions of ``table``, ascending, whose commit added or removed rows of ``day``; none where there is no table.

    Between two of them the day did not change. Where earlier versions were purged, the oldest that is left stands for
    them. Read from the table's log, one small file a commit, since opening each version takes a hundred times as long.
    """
    found = []
    for number, commit in enumerate(sorted(_log_folder(lake, table).glob("*.json"))):
        purged_before = number == 0 and int(commit.stem) > 0
        with commit.open(encoding="utf-8") as actions:
            if any(_concerns(json.loads(action), day) for action in actions) or purged_before:
                found.append(int(commit.stem))
    return found


def _log_folder(lake: Lake, table: str) -> Path:
    return lake.root / table / "_delta_log"


def _concerns(action: dict[str, dict[str, dict[str, str]]], day: date) -> bool:
    change = action.get("add") or action.get("remove") or {}
    return change.get("partitionValues", {}).get(DAY) == day.isoformat()
