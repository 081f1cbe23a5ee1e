"""The store of history features of `ctr serve`: where it lies, and opening it for a model."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ctr_pipeline.deployment.paths import DataRoot

if TYPE_CHECKING:
    from ctr_pipeline.online.event_store import EventStore
    from ctr_pipeline.serving.http import ServedModel
    from ctr_pipeline.serving.http.request_history import RequestHistory
    from ctr_pipeline.spec import Spec


def store_of(data_root: Path) -> str:
    """Folder of the snapshots of a data root; empty where none was made there."""
    folder = DataRoot(data_root.resolve()).online
    return str(folder) if folder.is_dir() else ""


def opened_history(model: "ServedModel", folder: Path, pseudonym: Callable[[str], str]) -> "RequestHistory | None":
    """What fills the history features of a model's requests; None for a model without such features.

    Args:
        model: The model.
        folder: Folder of the snapshots; there may be none yet.
        pseudonym: The deployment's hash of an id.

    Raises:
        StoreError: there are snapshots, and all are of other history features.
    """
    from ctr_pipeline.online.feature_store import FeatureStore
    from ctr_pipeline.serving.http.request_history import RequestHistory
    from ctr_pipeline.spec import parse_spec

    bundle = model.bundle
    spec = parse_spec(model.spec_text, where=str(bundle.directory / "spec.yaml"))
    if not spec.features.history:
        return None
    events = event_store_of(folder, spec, bundle.history)
    store = FeatureStore(folder, spec, bundle.history or "", events)
    store.refuse_other_features()
    shared = model.encoder.declared_shared
    return RequestHistory.of(bundle, spec, store, pseudonym, lambda: time.time_ns() // 1000, shared, events)


def event_store_of(folder: Path, spec: "Spec", definition: str | None) -> "EventStore | None":
    """The store of events beside the snapshots in ``folder``; None where no feature is made of events.

    Args:
        folder: Folder of the snapshots.
        spec: The spec of the model.
        definition: That of the bundle's history features; None for that of the spec.
    """
    from ctr_pipeline.online.event_store import EventStore, is_made_of_events

    return EventStore(events_folder(folder, spec, definition), spec) if is_made_of_events(spec) else None


def events_folder(folder: Path, spec: "Spec", definition: str | None) -> Path:
    """Folder of the store of events; arguments as for :func:`event_store_of`."""
    from ctr_pipeline.features.history_definition import history_definition
    from ctr_pipeline.online.event_store import FOLDER, FORMAT

    return folder / FOLDER / f"{definition or history_definition(spec)}.{FORMAT}"


def refuse_other_features(store: str, bundle: Path) -> None:
    """Refuses to serve a bundle with snapshots of other history features, before a process is started.

    Raises:
        StoreError: see :func:`opened_history`.
        BundleError: the bundle is broken.
    """
    from ctr_pipeline.online.feature_store import FeatureStore
    from ctr_pipeline.serving.bundle import history_of
    from ctr_pipeline.spec import load_spec
    from ctr_pipeline.spec.extensions import load_extensions

    if store:
        load_extensions()
        FeatureStore(Path(store), load_spec(bundle / "spec.yaml"), history_of(bundle) or "").refuse_other_features()
