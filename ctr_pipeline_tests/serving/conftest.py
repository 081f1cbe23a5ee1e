"""The shop and its bundle, made once."""

import pytest

from ctr_pipeline.serving import Bundle
from ctr_pipeline_tests.serving.shop import Shop, make_shop


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return make_shop(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="session")
def bundle(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return shop.export(tmp_path_factory.mktemp("bundles") / "first")
