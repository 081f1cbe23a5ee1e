"""What stands before every request: token, number of requests at once, counts, and errors without our details."""

import asyncio
import hmac
import logging
import secrets
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import orjson
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ctr_pipeline.serving.http.request_json import JSON_TYPE, RequestError
from ctr_pipeline.serving.http.service_metrics import OTHER_PATH, ServiceMetrics

LOG = logging.getLogger("ctr_pipeline.serving.http")

FREE = frozenset(("/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"))
"""Paths without a token: they tell that the service works, and nothing else."""

PATIENCE = 0.1
"""Seconds until a body has arrived where as many others are awaited as may be."""

_CLOSES = frozenset((408, 413, 503))
"""Statuses after which the connection is closed, as a part of the request may not have been read."""


class RequestGuard:
    """ASGI middleware around the service.

    Args:
        app: The service.
        token: What `Authorization: Bearer …` must hold; None for none.
        at_once: Most requests that are answered at once, and most bodies that are awaited for longer than
            :data:`PATIENCE`: those who send slowly keep the others from nothing.
        metrics: Counts answers.
        clock: Seconds that pass, such as ``time.perf_counter``.
        paths: The service's path of a request's, for the metrics.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        token: str | None,
        at_once: int,
        metrics: ServiceMetrics,
        clock: Callable[[], float],
        paths: Callable[[str], str],
    ) -> None:
        self._app, self._metrics, self._clock, self._paths = app, metrics, clock, paths
        self._authorization = None if token is None else f"Bearer {token}".encode()
        self._at_once, self._under_way, self._awaited = at_once, 0, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = self._clock(), 0

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        body = _Body(self, receive)
        try:
            self._admit(scope)
            await self._app(scope, body.part, counted)
        except RequestError as error:
            self._metrics.failed(error.kind)
            await error_answer(error)(scope, receive, counted)
        except ClientDisconnect:
            self._metrics.failed("disconnect")
            status = 499
        except Exception as error:
            if status:
                raise
            self._metrics.failed("unexpected")
            await _unexpected(error)(scope, receive, counted)
        finally:
            body.leave()
            self._metrics.answered(self._paths(scope["path"]), status, self._clock() - started)

    def _admit(self, scope: Scope) -> None:
        if scope["path"] in FREE:
            return
        if self._authorization is not None:
            given = dict(scope["headers"]).get(b"authorization", b"")
            if not hmac.compare_digest(given, self._authorization):
                raise RequestError(
                    "expected the header Authorization: Bearer and the token of the service",
                    "Authorization",
                    status=401,
                    kind="token",
                )

    def enter_awaited(self) -> bool:
        """Counts a body that is awaited; False where there are so many that it must be there soon."""
        self._awaited += 1
        return self._awaited <= self._at_once

    def leave_awaited(self) -> None:
        """The opposite."""
        self._awaited -= 1

    def enter(self) -> None:
        """Counts a request whose body is there.

        Raises:
            RequestError: there are too many; status 503.
        """
        if self._under_way >= self._at_once:
            raise _overload()
        self._under_way += 1

    def leave(self) -> None:
        """The opposite."""
        self._under_way -= 1


class _Body:
    """The body of a request, from which it is known whether the request is awaited or under way.

    Args:
        guard: Counts both.
        receive: Gives the parts of the body.
    """

    def __init__(self, guard: RequestGuard, receive: Receive) -> None:
        self._guard, self._receive = guard, receive
        self._awaited, self._entered = False, False
        self._deadline: float | None = None

    async def part(self) -> Message:
        """The next part.

        Raises:
            RequestError: there are too many requests at once, or bodies that take long; status 503.
        """
        if self._entered:
            return await self._receive()
        if not self._awaited:
            self._awaited = True
            if not self._guard.enter_awaited():
                self._deadline = asyncio.get_running_loop().time() + PATIENCE
        if self._deadline is None:
            message = await self._receive()
        else:
            try:
                async with asyncio.timeout_at(self._deadline):
                    message = await self._receive()
            except TimeoutError:
                raise _overload() from None
        if not message.get("more_body", False):
            self._leave_awaited()
            self._guard.enter()
            self._entered = True
        return message

    def leave(self) -> None:
        """Ends what was counted."""
        self._leave_awaited()
        if self._entered:
            self._entered = False
            self._guard.leave()

    def _leave_awaited(self) -> None:
        if self._awaited:
            self._awaited = False
            self._guard.leave_awaited()


def _overload() -> RequestError:
    return RequestError("too many requests at once; try again", status=503, kind="overload")


def json_answer(
    content: Any, status: int = 200, headers: Mapping[str, str] | None = None, later: BackgroundTask | None = None
) -> Response:
    """An answer in JSON; arrays of numpy are lists. ``later`` is done once it is sent."""
    body = orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(body, status, dict(headers or {}), JSON_TYPE, background=later)


def error_answer(error: RequestError) -> Response:
    """The answer to a request that is refused."""
    headers = {"Connection": "close"} if error.status in _CLOSES else {}
    headers |= {"Retry-After": "1"} if error.status == 503 else {}
    headers |= {"WWW-Authenticate": "Bearer"} if error.status == 401 else {}
    content = {"error": error.message} | ({"field": error.field} if error.field is not None else {})
    return json_answer(content, error.status, headers)


def http_error(error: HTTPException) -> RequestError:
    """What the framework refuses: a path or a method that the service does not have."""
    messages = {404: "there is no such path", 405: "the path does not have this method"}
    return RequestError(messages.get(error.status_code, "refused"), status=error.status_code, kind="path")


def _unexpected(error: Exception) -> Response:
    """The answer to an error of ours; the log has where it was, without its message, which may hold a sender's values."""
    number = secrets.token_hex(8)
    frames = traceback.extract_tb(error.__traceback__)
    places = " < ".join(f"{frame.name} ({frame.filename}:{frame.lineno})" for frame in reversed(frames))
    LOG.error("unexpected error %s: %s in %s", number, type(error).__name__, places)
    return json_answer({"error": f"unexpected error; the log of the service names it {number}", "id": number}, 500)


def path_names(paths: frozenset[str], model: str) -> Callable[[str], str]:
    """A function from the path of a request to that of the service, with ``{name}`` for the model's name."""

    def name(path: str) -> str:
        if path in paths:
            return path
        named = path.replace(f"/models/{model}", "/models/{name}", 1)
        return named if named in paths else OTHER_PATH

    return name
