"""Fixtures that the tests of more than one package use."""

from pathlib import Path

import pytest
from hypothesis import settings
from xdist.remote import Producer

from ctr_pipeline_tests.end_to_end.fixtures import (
    config_home,
    ctr,
    finished,
    servers,
    small_spec,
    stop_unused_servers,
)
from ctr_pipeline_tests.engine_sessions import sessions
from ctr_pipeline_tests.example_counts import NIGHTLY
from ctr_pipeline_tests.side_by_side import ByGroup, arrange

__all__ = ["config_home", "ctr", "finished", "servers", "sessions", "small_spec"]

# A loaded machine is slow, and that is no defect of the code under test.
settings.register_profile("no_deadline", deadline=None)
settings.register_profile(NIGHTLY, deadline=None)
settings.load_profile("no_deadline")

PROJECT = Path(__file__).resolve().parent.parent


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    arrange(items)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByGroup:
    config.option.loadscopereorder = False
    return ByGroup(config, log)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    stop_unused_servers(item, nextitem)


@pytest.fixture(scope="session")
def project() -> Path:
    """The folder of the checkout."""
    return PROJECT


@pytest.fixture
def own_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses that a test registers are gone after it."""
    from ctr_pipeline.losses import registry
    from ctr_pipeline.spec.losses import LOSSES

    monkeypatch.setattr(LOSSES, "_sections", LOSSES.sections)
    monkeypatch.setattr(registry._LOSSES, "_entries", dict(registry._LOSSES._entries))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with real logs, which is not part of the project."""
    folder = PROJECT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"the real logs are not here: {folder.name}/ is expected beside the checkout, in shared/")
    return folder
