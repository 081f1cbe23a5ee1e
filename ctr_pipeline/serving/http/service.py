"""The service: its paths, and what each of them answers."""

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from ctr_pipeline.serving.http.inference_protocol import (
    INFERENCE_FIELDS,
    TENSOR_FIELDS,
    columns_of,
    inference_answer,
    model_metadata,
    wanted_outputs,
)
from ctr_pipeline.serving.http.request_guard import RequestGuard, error_answer, http_error, json_answer, path_names
from ctr_pipeline.serving.http.request_json import (
    Limits,
    RequestError,
    kind_of,
    parsed_object,
    read_body,
    refuse_other_fields,
    refuse_type,
)
from ctr_pipeline.serving.http.request_scoring import Scored, ServedModel, score_request
from ctr_pipeline.serving.http.served_request import (
    CHAMPION,
    IMPRESSION,
    LogFields,
    RequestLog,
    ServedRequest,
    request_id_of,
    take_log_fields,
)
from ctr_pipeline.serving.http.service_metrics import ServiceMetrics
from ctr_pipeline.serving.request_encoding import TIME

MODEL_PATH = "/v2/models/{name}"
SCORE_FIELDS = ("shared", "candidates", "logits", "request_id")


def build_service(
    model: ServedModel,
    *,
    limits: Limits,
    token: str | None,
    clock: Callable[[], float],
    metrics: ServiceMetrics,
    version: str,
    request_log: RequestLog | None = None,
) -> FastAPI:
    """The ASGI application that serves ``model``.

    Args:
        model: The model.
        limits: What requests may take.
        token: What all but the health paths require; None for nothing.
        clock: Seconds that pass, such as ``time.perf_counter``.
        metrics: Where requests are counted.
        version: Of this software, for the metadata of the server.
        request_log: Where answered requests go; None for nowhere.
    """
    # The framework's own pages would load scripts from elsewhere.
    app = FastAPI(title="ctr serve", docs_url=None, redoc_url=None, openapi_url=None)
    bundle = model.bundle
    names = frozenset((*bundle.inputs, IMPRESSION, TIME, *SCORE_FIELDS, *INFERENCE_FIELDS, *TENSOR_FIELDS))

    async def content_of(request: Request) -> dict[str, Any]:
        refuse_type(request.headers)
        try:
            async with asyncio.timeout(limits.body_seconds):
                body = await read_body(request.headers, request.stream(), limits.body_bytes)
        except TimeoutError:
            message = f"the body did not arrive within {limits.body_seconds:g} s"
            raise RequestError(message, status=408, kind="limit") from None
        # Requests that have arrived meanwhile are taken up, so that they are counted among those at once.
        await asyncio.sleep(0)
        return parsed_object(body, names)

    async def score(request: Request) -> Response:
        content = await content_of(request)
        refuse_other_fields(content, SCORE_FIELDS)
        if "shared" not in content and "candidates" not in content:
            raise RequestError("the request has neither `shared` nor `candidates`", "shared")
        request_id = request_id_of(content, "request_id")
        shared, candidates, fields = take_log_fields(
            bundle.inputs, _features(content, "shared"), _features(content, "candidates")
        )
        with_logits = content.get("logits", False)
        if not isinstance(with_logits, bool):
            raise RequestError(f"`logits`: expected true or false; found {kind_of(with_logits)}", "logits")
        found = score_request(model, shared, candidates, limits)
        rows = len(found.scores.probabilities)
        metrics.scored(rows, found.unknown)
        _log(request_id, fields, found)
        answer = {"model": bundle.sha256, "candidates": rows, "scores": _by_task(found.scores.probabilities)}
        if with_logits:
            answer["logits"] = _by_task(found.scores.logits)
        return json_answer(answer)

    def _by_task(values: Any) -> dict[str, Any]:
        return dict(zip(bundle.tasks, np.ascontiguousarray(values.T), strict=True))

    async def infer(request: Request) -> Response:
        refuse_other_model(request)
        content = await content_of(request)
        wanted = wanted_outputs(content, bundle.tasks)
        shared, candidates, fields = take_log_fields(bundle.inputs, *columns_of(content))
        found = score_request(model, shared, candidates, limits)
        metrics.scored(len(found.scores.probabilities), found.unknown)
        _log(content.get("id") or None, fields, found)
        return json_answer(inference_answer(model, content, found.scores, wanted))

    def _log(request_id: str | None, fields: LogFields, found: Scored) -> None:
        if request_log is not None:
            request_log.offer(
                ServedRequest(
                    request_id=request_id, impression_ids=fields.impression_ids, ts=fields.ts, arm=CHAMPION,
                    model_sha=bundle.sha256, snapshot="", numeric=found.numeric, ids=found.ids, scores=found.scores,
                )
            )  # fmt: skip

    def refuse_other_model(request: Request) -> None:
        if request.path_params["name"] != bundle.name:
            raise RequestError(f"there is no such model; this one is {bundle.name}", "name", status=404, kind="path")

    async def described(_: Request) -> Response:
        return json_answer(
            {
                "name": bundle.name,
                "sha256": bundle.sha256,
                **model.facts,
                "tasks": bundle.tasks,
                "inputs": bundle.inputs,
                "hashed": sorted(model.hashed),
                "spec": model.spec_text,
            }
        )

    async def metadata(request: Request) -> Response:
        refuse_other_model(request)
        return json_answer(model_metadata(model))

    async def model_ready(request: Request) -> Response:
        refuse_other_model(request)
        return json_answer({"name": bundle.name, "ready": True})

    async def server(_: Request) -> Response:
        return json_answer({"name": "ctr_pipeline", "version": version, "extensions": []})

    async def ready(_: Request) -> Response:
        # The service is built of a model that is open and has scored its golden rows.
        return json_answer({"ready": True})

    async def live(_: Request) -> Response:
        return json_answer({"live": True})

    async def counts(_: Request) -> Response:
        return Response(metrics.text(), media_type=metrics.content_type)

    answers: dict[tuple[str, str], Callable[[Request], Any]] = {
        ("POST", "/score"): score,
        ("POST", f"{MODEL_PATH}/infer"): infer,
        ("GET", MODEL_PATH): metadata,
        ("GET", f"{MODEL_PATH}/ready"): model_ready,
        ("GET", "/v2"): server,
        ("GET", "/v2/health/live"): live,
        ("GET", "/v2/health/ready"): ready,
        ("GET", "/healthz"): live,
        ("GET", "/readyz"): ready,
        ("GET", "/model"): described,
        ("GET", "/metrics"): counts,
    }
    for (method, path), answer in answers.items():
        app.router.add_route(path, answer, methods=[method])

    async def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException), "what it is registered for"
        found = http_error(error)
        metrics.failed(found.kind)
        return error_answer(found)

    app.add_exception_handler(HTTPException, refused)
    app.add_middleware(
        RequestGuard,
        token=token,
        at_once=limits.at_once,
        metrics=metrics,
        clock=clock,
        paths=path_names(frozenset(path for _, path in answers), bundle.name),
    )
    return app


def _features(content: dict[str, Any], name: str) -> dict[str, Any]:
    found = content.get(name, {})
    if not isinstance(found, dict):
        raise RequestError(f"`{name}`: expected an object of features; found {kind_of(found)}", name)
    return found
