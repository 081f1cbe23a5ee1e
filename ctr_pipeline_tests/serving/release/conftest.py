"""Bundles of the shop that differ, and an empty registry for each test."""

from pathlib import Path

import pytest

from ctr_pipeline.calibration import PlattCalibrator
from ctr_pipeline.features.layout import IdColumn, Layout, NumericColumn
from ctr_pipeline.orchestration.resources import TrackingResource
from ctr_pipeline.ranker import build_ranker
from ctr_pipeline.serving import Bundle
from ctr_pipeline.serving.export import export_bundle
from ctr_pipeline_tests.built_once import built_once
from ctr_pipeline_tests.serving.release.registered import Registered
from ctr_pipeline_tests.serving.shop import Shop, randomise
from ctr_pipeline_tests.serving.shop_with_events import SPEC as EVENTS_SPEC
from ctr_pipeline_tests.serving.shop_with_events import with_events


@pytest.fixture(scope="session")
def second(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Another model of the same inputs and tasks."""
    folder = tmp_path_factory.mktemp("second")
    ranker = randomise(build_ranker(shop.layout, shop.spec.model, 1), seed=1)
    return export_bundle(ranker, shop.calibrators, shop.layout, shop.vocabulary, shop.spec, folder / "bundle")


@pytest.fixture(scope="session")
def other_type(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A model that takes the feature ``ad`` for a number, and has no ``hour``: it cannot score the requests of the others."""
    folder = tmp_path_factory.mktemp("other_type")
    numeric = (*shop.layout.numeric, NumericColumn("ad", "dense", "none", 4.1, False, 4.0, 0.4))
    layout = Layout(numeric=numeric, ids=shop.layout.ids[1:2], tasks=shop.layout.tasks, parents=shop.layout.parents)
    assert all(isinstance(column, IdColumn) for column in layout.ids)
    ranker = randomise(build_ranker(layout, shop.spec.model, 1))
    return export_bundle(ranker, shop.calibrators, layout, shop.vocabulary, shop.spec, folder / "bundle")


@pytest.fixture(scope="session")
def plus_one(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The first model with all its calibrated logits one higher: it passes every check of a bundle."""
    folder = tmp_path_factory.mktemp("plus_one")
    fitted = {
        name: PlattCalibrator(a=calibrator.a, b=calibrator.b + 1)
        for name, calibrator in shop.calibrators.items()
        if isinstance(calibrator, PlattCalibrator)
    }
    assert fitted.keys() == shop.calibrators.keys()
    return export_bundle(shop.ranker, fitted, shop.layout, shop.vocabulary, shop.spec, folder / "bundle")


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database of MLflow: making its tables takes seconds."""

    def make(folder: Path) -> None:
        TrackingResource(
            tracking_uri=f"sqlite:///{folder / 'mlflow.db'}", artifact_root=str(folder), experiment="none"
        ).client().search_registered_models()

    return built_once(tmp_path_factory, "empty_mlflow", make) / "mlflow.db"


@pytest.fixture
def registered(tmp_path: Path, database: Path) -> Registered:
    return Registered.make(tmp_path / "root", database)


@pytest.fixture(scope="session")
def with_events_bundle(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A model with a feature that is made of events."""
    return with_events(shop).export(tmp_path_factory.mktemp("with_events") / "bundle")


@pytest.fixture
def registered_with_events(tmp_path: Path, database: Path, with_events_bundle: Bundle) -> Registered:
    """A data root whose champion has such a feature, with a store for it."""
    found = Registered.make(tmp_path / "root", database, EVENTS_SPEC)
    (found.root / "online").mkdir()
    found.register(with_events_bundle.directory, "champion")
    return found
