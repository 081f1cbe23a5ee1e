"""The service: its paths, and what each of them answers."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any

import numpy as np
from fastapi import FastAPI, Request
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.responses import Response

from ctr_pipeline.serving.http.events import EventWriter, parsed_events
from ctr_pipeline.serving.http.inference_protocol import (
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
    refuse_ids_as_names,
    refuse_other_fields,
    refuse_type,
)
from ctr_pipeline.serving.http.request_scoring import Scored
from ctr_pipeline.serving.http.served_arms import (
    SCORE_FIELDS,
    ArmAnswer,
    GuardedCounts,
    ServedArms,
    ServedModels,
    score_in_arm,
    score_in_shadow,
)
from ctr_pipeline.serving.http.served_request import (
    LogFields,
    RequestLog,
    ServedRequest,
    request_id_of,
    take_log_fields,
    times_used,
)
from ctr_pipeline.serving.http.service_metrics import ServiceMetrics
from ctr_pipeline.serving.http.store_state import day_seconds, described_store, readiness
from ctr_pipeline.serving.http.trial_outcomes import TrialOutcomes, events_alone
from ctr_pipeline.serving.release import Arm, TrialMode
from ctr_pipeline.spec.ranking import RANKING_SCORE

MODEL_PATH = "/v2/models/{name}"


def build_service(
    models: ServedModels,
    *,
    limits: Limits,
    token: str | None,
    clock: Callable[[], float],
    metrics: ServiceMetrics,
    version: str,
    request_log: RequestLog | None = None,
    outcomes: TrialOutcomes | None = None,
    closing: Callable[[], None] | None = None,
) -> FastAPI:
    """The ASGI application that serves ``models``.

    Args:
        models: The champion, and the challenger while it is tried; they may be replaced at any time.
        limits: What requests may take.
        token: What all but the health paths require; None for nothing.
        clock: Seconds that pass, such as ``time.perf_counter``.
        metrics: Where requests are counted.
        version: Of this software, for the metadata of the server.
        request_log: Where answered requests go; None for nowhere.
        outcomes: Receives the impressions of a canary and their outcomes; None where nothing does.
        closing: Called after the last answer.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        if closing is not None:
            closing()

    # The framework's own pages would load scripts from elsewhere.
    # A redirection would send the request, with its ids, wherever its own header says.
    app = FastAPI(
        title="ctr serve", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan, redirect_slashes=False
    )
    # All versions of a registered model have the name of its spec.
    name, counts = models.current.champion.bundle.name, GuardedCounts(metrics, models)

    async def content_of(request: Request, arms: ServedArms) -> tuple[dict[str, Any], bytes]:
        refuse_type(request.headers)
        try:
            async with asyncio.timeout(limits.body_seconds):
                body = await read_body(request.headers, request.stream(), limits.body_bytes)
        except TimeoutError:
            message = f"the body did not arrive within {limits.body_seconds:g} s"
            raise RequestError(message, status=408, kind="limit") from None
        # Requests that have arrived meanwhile are taken up, so that they are counted among those at once.
        await asyncio.sleep(0)
        return parsed_object(body, arms.names, limits.fields, limits.values), body

    async def scored(
        arms: ServedArms,
        shared: dict[str, Any],
        candidates: dict[str, Any],
        body: bytes,
        request_id: str | None,
        fields: LogFields,
    ) -> tuple[ArmAnswer, BackgroundTask | None]:
        """The answer, and what is done once it is sent."""
        answer = await score_in_arm(arms, shared, candidates, body, limits=limits, clock=clock, counts=counts)
        metrics.scored(len(answer.found.scores.probabilities), answer.found.unknown)
        filled = answer.found.filled
        metrics.looked_up(filled.unknown, filled.absent, filled.late)
        _log(request_id, fields, answer.arm, answer.model.bundle.sha256, answer.found)
        if outcomes is not None and arms.trial is not None and fields.impression_ids is not None:
            outcomes.scored(arms.trial, answer.arm, fields.impression_ids, answer.found.scores.probabilities)
        if arms.trial is None or arms.trial.mode is not TrialMode.SHADOW:
            return answer, None

        async def shadow() -> None:
            beside = await score_in_shadow(arms, answer, shared, candidates, limits=limits, clock=clock, counts=counts)
            if beside is not None and arms.challenger is not None:
                _log(request_id, fields, Arm.SHADOW, arms.challenger.bundle.sha256, beside)

        return answer, BackgroundTask(shadow)

    async def score(request: Request) -> Response:
        arms = models.current
        content, body = await content_of(request, arms)
        refuse_other_fields(content, SCORE_FIELDS)
        if "shared" not in content and "candidates" not in content:
            raise RequestError("the request has neither `shared` nor `candidates`", "shared")
        request_id = request_id_of(content, "request_id")
        shared, candidates = _features(content, "shared"), _features(content, "candidates")
        refuse_ids_as_names(shared, arms.names, "shared")
        refuse_ids_as_names(candidates, arms.names, "candidates")
        shared, candidates, fields = take_log_fields(arms.other_inputs, shared, candidates)
        with_logits = content.get("logits", False)
        if not isinstance(with_logits, bool):
            raise RequestError(f"`logits`: expected true or false; found {kind_of(with_logits)}", "logits")
        given, later = await scored(arms, shared, candidates, body, request_id, fields)
        bundle, scores = given.model.bundle, given.found.scores
        answer = {
            "model": bundle.sha256,
            "candidates": len(scores.probabilities),
            "scores": _by_task(bundle.tasks, scores.probabilities),
        }
        if given.found.ranking is not None:
            answer[RANKING_SCORE] = given.found.ranking
        if with_logits:
            answer["logits"] = _by_task(bundle.tasks, scores.logits)
        return json_answer(answer, later=later)

    async def infer(request: Request) -> Response:
        refuse_other_model(request)
        arms = models.current
        content, body = await content_of(request, arms)
        wanted = wanted_outputs(content, arms.champion.outputs)
        tensors = columns_of(content, limits.candidates, arms.names)
        shared, candidates, fields = take_log_fields(arms.other_inputs, *tensors)
        given, later = await scored(arms, shared, candidates, body, content.get("id") or None, fields)
        return json_answer(inference_answer(given.model, content, given.found, wanted), later=later)

    def _log(request_id: str | None, fields: LogFields, arm: Arm, sha256: str, found: Scored) -> None:
        if request_log is not None:
            numeric, ids = found.inputs.rows()
            request_log.offer(
                ServedRequest(
                    request_id=request_id, impression_ids=fields.impression_ids,
                    ts=times_used(fields.ts, found.filled.now), arm=arm, model_sha=sha256,
                    snapshot=found.filled.snapshot, numeric=numeric, ids=ids, scores=found.scores,
                )
            )  # fmt: skip

    writers: dict[str, EventWriter] = {}

    async def happened(request: Request) -> Response:
        arms = models.current
        content, _ = await content_of(request, arms)
        stored = None
        for history in arms.event_histories or ([] if outcomes is None else [events_alone(outcomes)]):
            sink = history.events
            assert sink is not None, "chosen so"
            events = parsed_events(content, history, sink, history.now())
            writer = writers.setdefault(sink.identity, EventWriter(sink, history.now))
            found = await writer.store(events)
            if stored is None and outcomes is not None:
                outcomes.happened(events)
            stored = stored or found
        if stored is None:
            raise RequestError("no feature of the model is made of events", "events", status=404, kind="path")
        metrics.events(stored)
        return json_answer(asdict(stored))

    def refuse_other_model(request: Request) -> None:
        if request.path_params["name"] != name:
            raise RequestError(f"there is no such model; this one is {name}", "name", status=404, kind="path")

    async def described(_: Request) -> Response:
        return json_answer(description_of(models.current))

    async def metadata(request: Request) -> Response:
        refuse_other_model(request)
        return json_answer(model_metadata(models.current.champion))

    async def model_ready(request: Request) -> Response:
        refuse_other_model(request)
        state = readiness(models.current.champion.history)
        return json_answer({"name": name, **state}, 200 if state["ready"] else 503)

    async def server(_: Request) -> Response:
        return json_answer({"name": "ctr_pipeline", "version": version, "extensions": []})

    async def ready(_: Request) -> Response:
        state = readiness(models.current.champion.history)
        return json_answer(state, 200 if state["ready"] else 503)

    async def live(_: Request) -> Response:
        return json_answer({"live": True})

    async def metrics_text(_: Request) -> Response:
        history = models.current.champion.history
        if history is not None:
            metrics.stored_day(day_seconds(history.state()))
        metrics.served(len(models.current.refused), models.current.canary_share)
        return Response(metrics.text(), media_type=metrics.content_type)

    answers: dict[tuple[str, str], Callable[[Request], Any]] = {
        ("POST", "/score"): score,
        ("POST", "/events"): happened,
        ("POST", f"{MODEL_PATH}/infer"): infer,
        ("GET", MODEL_PATH): metadata,
        ("GET", f"{MODEL_PATH}/ready"): model_ready,
        ("GET", "/v2"): server,
        ("GET", "/v2/health/live"): live,
        ("GET", "/v2/health/ready"): ready,
        ("GET", "/healthz"): live,
        ("GET", "/readyz"): ready,
        ("GET", "/model"): described,
        ("GET", "/metrics"): metrics_text,
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
        paths=path_names(frozenset(path for _, path in answers), name),
    )
    return app


def description_of(arms: ServedArms) -> dict[str, Any]:
    """The answer to ``GET /model``: the champion, the trial beside it, and what is refused."""
    model = arms.champion
    bundle, trial = model.bundle, None
    if arms.trial is not None and arms.challenger is not None:
        own = {"sha256": arms.challenger.bundle.sha256, **arms.challenger.facts}
        trial = {"mode": arms.trial.mode, "share": arms.trial.share, "started": arms.trial.started, **own}
    return {
        "name": bundle.name,
        "sha256": bundle.sha256,
        **model.facts,
        "tasks": bundle.tasks,
        "inputs": bundle.inputs,
        "candidate_features": bundle.layout.candidate_features,
        "bids": sorted(model.bids),
        "hashed": sorted(model.hashed),
        **({} if model.history is None else {"history": described_store(model.history)}),
        "trial": trial,
        "refused": dict(arms.refused),
        "spec": model.spec_text,
    }


def _by_task(tasks: tuple[str, ...], values: Any) -> dict[str, Any]:
    return dict(zip(tasks, np.ascontiguousarray(values.T), strict=True))


def _features(content: dict[str, Any], name: str) -> dict[str, Any]:
    found = content.get(name, {})
    if not isinstance(found, dict):
        raise RequestError(f"`{name}`: expected an object of features; found {kind_of(found)}", name)
    return found
