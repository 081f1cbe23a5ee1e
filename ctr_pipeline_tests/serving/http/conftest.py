"""The shop's model as a service, asked without a network."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from fastapi.testclient import TestClient

from ctr_pipeline.serving import Bundle
from ctr_pipeline.serving.http import Limits, ServedModel, ServedModels, ServiceMetrics, build_service
from ctr_pipeline.sources import Pseudonymiser

LIMITS = Limits(body_bytes=50_000, candidates=500, list_length=10, fields=1000)


@pytest.fixture(scope="session")
def model(bundle: Bundle) -> ServedModel:
    return ServedModel.of(bundle, None, {"version": "3"})


@pytest.fixture(scope="session")
def client_of() -> Callable[..., TestClient]:
    def client(model: ServedModel, token: str | None = None, limits: Limits = LIMITS) -> TestClient:
        service = build_service(
            ServedModels.of(model),
            limits=limits,
            token=token,
            clock=time.perf_counter,
            metrics=ServiceMetrics(),
            version="0",
        )
        return TestClient(service)

    return client


@pytest.fixture
def client(model: ServedModel, client_of: Callable[..., TestClient]) -> Iterator[TestClient]:
    with client_of(model) as found:
        yield found


@pytest.fixture(scope="session")
def hashing(model: ServedModel) -> ServedModel:
    """The model, with ``ad`` as a feature whose values are hashed."""
    return replace(
        model, hashed={"ad": frozenset(("none",))}, pseudonym=Pseudonymiser(b"a key of the tests only").of_text
    )
