"""Requests within limits: authentication, size and time of bodies, time of answers, and the answers of errors."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from broker.errors import BadArgument, BrokerError, CodecError, TooBig
from broker.integrations.http_server.room import Full, Held, Room
from broker.integrations.http_server.routes import Answer, ErrorAnswer

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

M = TypeVar("M")

_log = logging.getLogger(__name__)

#: Default of the largest request body, bytes.
MAX_REQUEST_BYTES = 64 * 1024 * 1024
#: Default of the bytes of request bodies that are in memory at the same time.
MAX_BYTES_IN_FLIGHT = 128 * 1024 * 1024
#: How long a request is worked on, seconds: its client waits for 10.
ANSWER_WITHIN_S = 8.0
#: How long a body may take to arrive, seconds.
BODY_WITHIN_S = 60.0


class Bodies:
    """Reads bodies of requests, in bounded size, time and memory.

    Args:
        max_request_bytes: larger bodies are refused.
        max_bytes_in_flight: bodies wait for each other where they have more bytes together; at least one is let in.
    """

    def __init__(
        self, max_request_bytes: int = MAX_REQUEST_BYTES, max_bytes_in_flight: int = MAX_BYTES_IN_FLIGHT
    ) -> None:
        self._max_request_bytes = max_request_bytes
        self._room = Room(max(max_bytes_in_flight, max_request_bytes))

    @asynccontextmanager
    async def read(self, request: Request) -> AsyncGenerator[bytearray]:
        """The body; its bytes count until the block ends."""
        held = await self._room.hold(self._announced(request), ANSWER_WITHIN_S)
        try:
            async with asyncio.timeout(BODY_WITHIN_S):
                body = await self._received(request, held)
            yield body
        except TimeoutError:
            raise _late_body() from None
        finally:
            held.end()

    def validated(self, model: TypeAdapter[M], answer: Callable[[Request, M], Awaitable[Response]]) -> Answer:
        """An endpoint whose requests have a body of this form. It is answered in time."""

        async def answered(request: Request) -> Response:
            held = await self._room.hold(self._announced(request), ANSWER_WITHIN_S)
            body: bytearray | None = None
            try:
                # One limit for both parts, because each limit costs as much as the rest of this function.
                async with asyncio.timeout(BODY_WITHIN_S) as limit:
                    body = await self._received(request, held)
                    value = model.validate_json(body)
                    body.clear()
                    limit.reschedule(asyncio.get_running_loop().time() + ANSWER_WITHIN_S)
                    return await answer(request, value)
            except ValidationError as error:
                return invalid(error)
            except TimeoutError:
                raise _late_body() if body is None else _late_answer() from None
            finally:
                held.end()

        return answered

    def _announced(self, request: Request) -> int:
        """The length of the body by its header, bytes; 0 if the header does not say it."""
        headers: Sequence[tuple[bytes, bytes]] = request.scope["headers"]
        announced = next((value for name, value in headers if name == b"content-length"), b"0")
        size = int(announced[:20]) if announced.isdigit() else 0
        if size > self._max_request_bytes:
            raise self._too_large()
        return size

    def _too_large(self) -> HTTPException:
        return HTTPException(413, f"The request is larger than {self._max_request_bytes} bytes.")

    async def _received(self, request: Request, held: Held) -> bytearray:
        body = bytearray()
        while True:
            message = await request.receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            body += message.get("body", b"")
            if len(body) > self._max_request_bytes:
                raise self._too_large()
            held.grow(len(body))
            if not message.get("more_body", False):
                return body


def _late_body() -> HTTPException:
    return HTTPException(408, f"The request did not arrive within {BODY_WITHIN_S:g} seconds.")


def _late_answer() -> HTTPException:
    return HTTPException(503, f"The broker did not answer within {ANSWER_WITHIN_S:g} seconds.")


def in_time(answer: Answer) -> Answer:
    """An endpoint that answers with an error when it takes longer than its client waits."""

    async def answer_in_time(request: Request) -> Response:
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                return await answer(request)
        except TimeoutError:
            raise _late_answer() from None

    return answer_in_time


def client_of(request: Request) -> str:
    """The client's address, or `-`."""
    return request.client.host if request.client else "-"


def invalid(error: ValidationError, *place: str | int) -> Response:
    """The errors in a body, in the form of agent-lightning's servers, without the values.

    Args:
        error: pydantic's error.
        place: the container of the places that the error names.
    """
    problems: Sequence[Any] = error.errors(include_url=False, include_context=False, include_input=False)
    detail = [{**problem, "loc": [*(place or ("body",)), *problem["loc"]]} for problem in problems[:100]]
    return JSONResponse({"detail": detail}, status_code=422)


async def _refused(request: Request, error: Exception) -> Response:  # noqa: ARG001 - the shape of a handler
    assert isinstance(error, HTTPException), "registered for it"
    return JSONResponse({"detail": error.detail}, status_code=error.status_code, headers=error.headers)


async def _unavailable(request: Request, error: Exception) -> Response:
    _log.warning("%s %s could not be answered: %s", request.method, request.url.path, error)
    return JSONResponse({"detail": str(error)}, status_code=503)


async def _full(request: Request, error: Exception) -> Response:  # noqa: ARG001 - the shape of a handler
    return JSONResponse({"detail": str(error)}, status_code=503, headers={"retry-after": "5"})


async def _too_big(request: Request, error: Exception) -> Response:  # noqa: ARG001 - the shape of a handler
    return JSONResponse({"detail": str(error)}, status_code=413)


async def _invalid_value(request: Request, error: Exception) -> Response:  # noqa: ARG001 - the shape of a handler
    return JSONResponse({"detail": str(error)}, status_code=422)


async def _gone(request: Request, error: Exception) -> Response:  # noqa: ARG001 - the shape of a handler
    return Response(status_code=400)  # no client reads it


#: The answers of errors, by their type.
EXCEPTION_HANDLERS: dict[type[Exception], ErrorAnswer] = {
    HTTPException: _refused,
    BrokerError: _unavailable,
    TooBig: _too_big,
    CodecError: _invalid_value,
    ClientDisconnect: _gone,
    Full: _full,
}


def refuse_empty_token(token: str | None) -> None:
    """Raises BadArgument for an empty token, which would protect nothing: often a variable that was not set."""
    if token == "":
        raise BadArgument(argument="token", given="an empty one", expected="a secret, or None for none")


class Authenticated:
    """Lets requests with the token through.

    The token is sent as Bearer. Basic with the token as password works too: stock clients send that when their endpoint
    is `http://worker:TOKEN@host:port`.

    Args:
        app: the protected application.
        token: the token.
        header: another header that may bring the token, in lower case.
        public: the paths that need no token.
    """

    def __init__(self, app: ASGIApp, token: str, *, header: bytes = b"", public: Collection[str] = ()) -> None:
        self._app, self._expected = app, _fingerprint(token.encode())
        self._header, self._public = header, public

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request, or passes it on."""
        if scope["type"] == "http" and scope["path"] not in self._public and not self._may(scope["headers"]):
            refusal = JSONResponse(
                {"detail": "Missing or wrong token."}, status_code=401, headers={"www-authenticate": "Bearer"}
            )
            await refusal(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _may(self, headers: Sequence[tuple[bytes, bytes]]) -> bool:
        brought = [_token_in(value) for name, value in headers if name == b"authorization"][:1]
        brought += [value for name, value in headers if self._header and name == self._header][:1]
        return any(hmac.compare_digest(_fingerprint(token), self._expected) for token in brought)


def _fingerprint(token: bytes) -> bytes:
    # Hashes have one length, so that the time of comparing does not even show the token's length.
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
