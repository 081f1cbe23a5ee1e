"""Bodies that arrive slowly: others are answered meanwhile, up to a number, and none is awaited for ever."""

import asyncio
import json
import time
from typing import Any

from ctr_pipeline.serving.http import Limits, ServedModel, ServedModels, ServiceMetrics, build_service
from ctr_pipeline.serving.http.request_guard import PATIENCE

BODY = json.dumps({"shared": {"price": 1}}).encode()


async def asked(service: Any, body_after: asyncio.Event | None) -> tuple[int, dict[str, Any]]:
    """Status and content of the answer to a request whose body comes after an event; never without one."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if body_after is None:
            await asyncio.sleep(60)
        else:
            await body_after.wait()
        return {"type": "http.request", "body": BODY, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": "POST", "path": "/score", "raw_path": b"/score", "query_string": b"",
        "headers": [(b"content-type", b"application/json")], "http_version": "1.1", "scheme": "http",
    }  # fmt: skip
    await service(scope, receive, send)
    return sent[0]["status"], json.loads(sent[1]["body"])


def service_of(model: ServedModel, **limits: float) -> Any:
    return build_service(
        ServedModels.of(model),
        limits=Limits(**limits),
        token=None,
        clock=time.perf_counter,
        metrics=ServiceMetrics(),
        version="0",
    )


def test_a_body_that_does_not_arrive_is_given_up(model: ServedModel) -> None:
    status, answer = asyncio.run(asked(service_of(model, body_seconds=0.05), None))
    assert (status, answer["error"]) == (408, "the body did not arrive within 0.05 s")


def test_those_who_send_slowly_keep_nobody_from_an_answer_and_are_themselves_limited(model: ServedModel) -> None:
    async def all_of_them() -> list[list[tuple[int, dict[str, Any]]]]:
        service, event, now = service_of(model, at_once=2), asyncio.Event(), asyncio.Event()
        now.set()
        slow = [asyncio.create_task(asked(service, event)) for _ in range(2)]
        await asyncio.sleep(0.01)
        quick = [await asked(service, now) for _ in range(5)]
        # Beyond as many as are answered at once, a body must be there soon.
        more = [asyncio.create_task(asked(service, event)) for _ in range(3)]
        await asyncio.sleep(PATIENCE / 2)
        quick += [await asked(service, now) for _ in range(5)]
        refused = await asyncio.gather(*more)
        event.set()
        later = await asyncio.gather(*slow)
        return [quick, refused, later, [await asked(service, now)]]

    quick, refused, later, after = asyncio.run(all_of_them())
    assert [status for status, _ in quick] == [200] * 10
    assert [status for status, _ in refused] == [503] * 3
    assert [status for status, _ in (*later, *after)] == [200] * 3


def test_requests_beyond_those_at_once_are_refused_and_the_others_answered(model: ServedModel) -> None:
    async def four() -> list[tuple[int, dict[str, Any]]]:
        service, event = service_of(model, at_once=2), asyncio.Event()
        waiting = [asyncio.create_task(asked(service, event)) for _ in range(2)]
        await asyncio.sleep(0.01)
        waiting += [asyncio.create_task(asked(service, event)) for _ in range(2)]
        await asyncio.sleep(0.01)
        # All bodies are there at once.
        event.set()
        return list(await asyncio.gather(*waiting))

    answers = asyncio.run(four())
    assert sorted(status for status, _ in answers) == [200, 200, 503, 503]
