"""The shop and its bundle, made once."""

from dataclasses import replace

import pytest
import yaml

from ctr_pipeline.serving import Bundle
from ctr_pipeline.spec import parse_spec
from ctr_pipeline_tests.serving.shop import SPEC, Shop, make_shop


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return make_shop(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="session")
def bundle(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return shop.export(tmp_path_factory.mktemp("bundles") / "first")


@pytest.fixture(scope="session")
def sharing(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The shop's model, whose candidates differ in price and ad."""
    content = yaml.safe_load(SPEC) | {"serving": {"candidate_features": ["price", "ad"]}}
    spec = parse_spec(yaml.safe_dump(content), "test")
    return replace(shop, spec=spec).export(tmp_path_factory.mktemp("sharing") / "bundle")
