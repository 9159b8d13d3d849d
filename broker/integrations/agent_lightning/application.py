"""The protocol over HTTP, as an ASGI application: routes, authentication, limits, answers for bad requests."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from broker.errors import BadArgument, BrokerError, CodecError, TooBig
from broker.integrations.agent_lightning.gateway import Gateway, Received
from broker.integrations.agent_lightning.messages import PostedRollout
from broker.integrations.agent_lightning.room import Full, Held, Room

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

_log = logging.getLogger("broker")

#: Largest request body, in bytes, unless said otherwise.
MAX_REQUEST_BYTES = 64 * 1024 * 1024
#: Bytes of request bodies that are in memory at the same time, unless said otherwise.
MAX_BYTES_IN_FLIGHT = 128 * 1024 * 1024
#: How long a request is worked on, seconds: its client waits for 10.
ANSWER_WITHIN_S = 8.0
#: How long a body may take to arrive, seconds.
BODY_WITHIN_S = 60.0

_Answer = Callable[[Request], Awaitable[Response]]


def application(
    gateway: Gateway,
    *,
    token: str | None = None,
    max_request_bytes: int = MAX_REQUEST_BYTES,
    max_bytes_in_flight: int = MAX_BYTES_IN_FLIGHT,
) -> ASGIApp:
    """The application of an open gateway, to be served at the root.

    Args:
        gateway: what it speaks for.
        token: what clients must send (`Authorization: Bearer TOKEN`); None: anyone who reaches it may.
        max_request_bytes: larger bodies are refused.
        max_bytes_in_flight: bodies wait for each other where they have more bytes together; at least one is let in.

    Raises:
        BadArgument: the token is empty, as an environment variable is that was not set: it would protect nothing.
    """
    if token == "":
        raise BadArgument(argument="token", given="an empty one", expected="a secret, or None for none")
    endpoints = _Endpoints(gateway, max_request_bytes, Room(max(max_bytes_in_flight, max_request_bytes)))
    app: ASGIApp = Starlette(
        routes=[
            Route("/task", _in_time(endpoints.task), methods=["GET"]),
            Route("/rollout", endpoints.rollout, methods=["POST"]),
            Route("/resources/latest", _in_time(endpoints.latest_resources), methods=["GET"]),
            Route("/resources/{resource_id:path}", _in_time(endpoints.resources), methods=["GET"]),
        ],
        exception_handlers={HTTPException: _refused, BrokerError: _unavailable, ClientDisconnect: _gone, Full: _full},
    )
    return app if token is None else _Authenticated(app, token)


class _Endpoints:
    def __init__(self, gateway: Gateway, max_request_bytes: int, room: Room) -> None:
        self._gateway, self._max_request_bytes, self._room = gateway, max_request_bytes, room

    async def task(self, request: Request) -> Response:
        task = await self._gateway.next_task(_client(request))
        if task is None:
            return JSONResponse({"is_available": False, "task": None})
        return Response(
            b'{"is_available":true,"task":' + task.model_dump_json().encode() + b"}", media_type="application/json"
        )

    async def rollout(self, request: Request) -> Response:
        async with self._room.held(self._announced(request), ANSWER_WITHIN_S) as held:
            body = await self._body(request, held)
            try:
                posted = PostedRollout.model_validate_json(body)
            except ValidationError as error:
                return _invalid(error)
            del body
            return await _in_time(self._received(posted))(request)

    def _received(self, posted: PostedRollout) -> _Answer:
        async def answer(request: Request) -> Response:
            try:
                received = await self._gateway.receive(posted, _client(request))
            except TooBig as error:
                raise HTTPException(413, str(error)) from None
            except CodecError as error:
                raise HTTPException(422, str(error)) from None
            return JSONResponse(_receipt(posted.rollout_id, received))

        return answer

    async def latest_resources(self, request: Request) -> Response:
        bundle = await self._gateway.resources.latest()
        if bundle is None:
            raise HTTPException(404, "No resources have been set on the server.")
        return Response(bundle, media_type="application/json")

    async def resources(self, request: Request) -> Response:
        resource_id: str = request.path_params["resource_id"]
        bundle = await self._gateway.resources.by_id(resource_id)
        if bundle is None:
            raise HTTPException(404, f"Resource ID '{resource_id}' not found.")
        return Response(bundle, media_type="application/json")

    def _announced(self, request: Request) -> int:
        """The bytes that the body has by its header; 0 where it says nothing."""
        announced = request.headers.get("content-length", "0")
        size = int(announced[:20]) if announced.isdecimal() else 0
        if size > self._max_request_bytes:
            raise self._too_large()
        return size

    def _too_large(self) -> HTTPException:
        return HTTPException(413, f"The request is larger than {self._max_request_bytes} bytes.")

    async def _body(self, request: Request, held: Held) -> bytearray:
        """The body, in bounded size and time."""
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_WITHIN_S):
                async for piece in request.stream():
                    body += piece
                    if len(body) > self._max_request_bytes:
                        raise self._too_large()
                    held.grow(len(body))
        except TimeoutError:
            raise HTTPException(408, f"The request did not arrive within {BODY_WITHIN_S:g} seconds.") from None
        return body


def _in_time(answer: _Answer) -> _Answer:
    """The same endpoint, which says so when it takes longer than its client waits."""

    async def answer_in_time(request: Request) -> Response:
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                return await answer(request)
        except TimeoutError:
            raise HTTPException(503, f"The broker did not answer within {ANSWER_WITHIN_S:g} seconds.") from None

    return answer_in_time


def _client(request: Request) -> str:
    return request.client.host if request.client else "-"


def _receipt(rollout_id: str, received: Received) -> dict[str, Any]:
    if received.stored:
        return {"status": "ok", "message": f"Rollout {rollout_id} received and stored.", "data": None}
    because = f"attempt {received.instead} has its place" if received.instead else f"its attempt is {received.answer}"
    data = {"answer": received.answer, "why": received.why, "attempt_id": received.attempt_id or None}
    return {
        "status": "ok",
        "message": f"Rollout {rollout_id} came too late and was not stored: {because}.",
        "data": {**data, "instead": received.instead or None},
    }


def _invalid(error: ValidationError) -> Response:
    """What is wrong with the body, in the words of agent-lightning's server, without the values themselves."""
    problems: Sequence[Any] = error.errors(include_url=False, include_context=False, include_input=False)
    detail = [{**problem, "loc": ["body", *problem["loc"]]} for problem in problems[:100]]
    return JSONResponse({"detail": detail}, status_code=422)


async def _refused(request: Request, error: Exception) -> Response:  # noqa: ARG001 - the shape of a handler
    assert isinstance(error, HTTPException), "registered for it"
    return JSONResponse({"detail": error.detail}, status_code=error.status_code, headers=error.headers)


async def _unavailable(request: Request, error: Exception) -> Response:
    _log.warning("%s %s could not be answered: %s", request.method, request.url.path, error)
    return JSONResponse({"detail": str(error)}, status_code=503)


async def _full(request: Request, error: Exception) -> Response:  # noqa: ARG001 - the shape of a handler
    return JSONResponse({"detail": str(error)}, status_code=503, headers={"retry-after": "5"})


async def _gone(request: Request, error: Exception) -> Response:  # noqa: ARG001 - the shape of a handler
    return Response(status_code=400)  # nobody reads it


class _Authenticated:
    """Lets through what brings the token.

    Bearer is the way; Basic with the token as password works too: it is what stock clients send when their endpoint is
    `http://worker:TOKEN@host:port`.
    """

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app, self._expected = app, _fingerprint(token.encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            brought = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
            if not hmac.compare_digest(_fingerprint(_token_in(brought)), self._expected):
                refusal = JSONResponse(
                    {"detail": "Missing or wrong token."}, status_code=401, headers={"www-authenticate": "Bearer"}
                )
                await refusal(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _fingerprint(token: bytes) -> bytes:
    # Of one length whatever was sent, so that not even the length shows in the time that comparing takes.
    return hashlib.sha256(token).digest()


def _token_in(header: bytes) -> bytes:
    scheme, _, credentials = header.strip().partition(b" ")
    match scheme.lower():
        case b"bearer":
            return credentials.strip()
        case b"basic":
            try:
                return base64.b64decode(credentials.strip(), validate=True).partition(b":")[2]
            except (binascii.Error, ValueError):
                return b""
        case _:
            return b""
