"""Before `ctr serve` answers: the store of events gets what the tables hold, in a process of its own.

LMDB's files must not be open in a process that is copied, as the one that starts the others is.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

from ctr_pipeline.commands.follow_registry import ServeError
from ctr_pipeline.training.process import die_with_parent

LATER_SECONDS = 5.0
"""A store that is filled while it is used waits so long: the processes that answer start sooner without another beside them."""


def fill_events(store: str, data_root: str, bundle: Path) -> None:
    """Fills the store of events of a bundle's history features from the tables of a data root.

    The first time this is awaited; later a store is filled while it is used.

    Args:
        store: Folder of the snapshots; empty for none.
        data_root: The data root; empty for none.
        bundle: Folder of the bundle.

    Raises:
        ServeError: a new store could not be filled.
    """
    from ctr_pipeline.commands.serve_store import events_folder
    from ctr_pipeline.online.event_store import is_made_of_events
    from ctr_pipeline.serving.bundle import history_of
    from ctr_pipeline.spec import load_spec

    if not store or not data_root or not is_made_of_events(spec := load_spec(bundle / "spec.yaml")):
        return
    exists = events_folder(Path(store), spec, history_of(bundle)).is_dir()
    after = LATER_SECONDS if exists else 0.0
    content = json.dumps({"store": store, "data_root": data_root, "bundle": str(bundle), "after": after})
    process = subprocess.Popen([sys.executable, "-m", "ctr_pipeline.commands.fill_events", content])
    if not exists and process.wait() != 0:
        raise ServeError("the store of events could not be filled; the messages of the process are above.")


def main(store: str, data_root: str, bundle: str, after: float) -> None:
    """What that process does, in ``after`` seconds, unless the service has ended by then."""
    die_with_parent()
    time.sleep(after)
    from ctr_pipeline.commands.serve_store import event_store_of
    from ctr_pipeline.deployment.paths import DataRoot
    from ctr_pipeline.lake import Lake
    from ctr_pipeline.online.event_filling import fill_from_tables
    from ctr_pipeline.serving.bundle import history_of
    from ctr_pipeline.spec import load_spec
    from ctr_pipeline.spec.extensions import load_extensions

    load_extensions()
    folder = Path(bundle)
    events = event_store_of(Path(store), load_spec(folder / "spec.yaml"), history_of(folder))
    if events is not None:
        fill_from_tables(events, Lake(DataRoot(Path(data_root)).lake), time.time_ns() // 1000)


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
