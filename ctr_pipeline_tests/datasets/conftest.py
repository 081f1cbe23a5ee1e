"""The small log, and what is packed of it, once for all tests that only read them."""

import pytest

from ctr_pipeline.datasets import PackedDataset
from ctr_pipeline_tests.datasets.logs import Log, a_log, a_spec, pack


@pytest.fixture(scope="session")
def log() -> Log:
    return a_log()


@pytest.fixture(scope="session")
def packed(log: Log, tmp_path_factory: pytest.TempPathFactory) -> PackedDataset:
    return pack(tmp_path_factory.mktemp("packed") / "dataset", log, a_spec())
