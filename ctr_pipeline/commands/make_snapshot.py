"""`ctr snapshot`: makes the history values of a day ready for servers."""

from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from ctr_pipeline.deployment.deployment import Deployment
from ctr_pipeline.deployment.environment import process_environment
from ctr_pipeline.deployment.lock import exclusive
from ctr_pipeline.errors import UserError

if TYPE_CHECKING:
    from ctr_pipeline.online.snapshot_index import SnapshotFacts


class SnapshotError(UserError):
    """There is nothing to make a snapshot of."""


def snapshot_of_day(deployment: Deployment, day: date | None, out: Path | None) -> "SnapshotFacts":
    """Makes the snapshot of a day and lists it.

    Args:
        deployment: The deployment; its logs must have been read up to the day before.
        day: Day on which servers use it; by default the one after the last that was read.
        out: Folder of the snapshots; by default that of the data root.

    Raises:
        SnapshotError: the log was not read so far, or begins later.
        DataRootBusyError: another command is at work on the data root.
    """
    from ctr_pipeline.engines import engine_session
    from ctr_pipeline.lake import Lake
    from ctr_pipeline.online.day_values import values_of_day
    from ctr_pipeline.online.snapshot_writing import make_snapshot

    lake, root = Lake(deployment.paths.lake), deployment.data_root
    with exclusive(root):
        days = lake.rows_by_day("impressions") if lake.exists("impressions") else {}
        if not days:
            raise SnapshotError(f"{root}: no impressions have been read. Run `ctr run` for this data root first.")
        newest, wanted = max(days) + timedelta(days=1), day or max(days) + timedelta(days=1)
        if not min(days) <= wanted <= newest:
            raise SnapshotError(
                f"--day {wanted}: the impressions that were read are of {min(days)} to {max(days)}, so there are values for "
                f"{min(days)} to {newest}. Read further days with `ctr run`, or choose one of these."
            )
        with engine_session(deployment.engine, root, process_environment().variables) as engine:
            rows, version = values_of_day(deployment.spec, engine, lake, wanted, deployment.first_day)
        return make_snapshot(out or deployment.paths.online, deployment.spec, wanted, rows, version)
