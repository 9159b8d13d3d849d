"""The protocol over HTTP, as an ASGI application: routes and messages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from broker.integrations.agent_lightning.gateway import Gateway, Received
from broker.integrations.agent_lightning.messages import PostedRollout
from broker.integrations.http_server.probes import PUBLIC, probes
from broker.integrations.http_server.requests import (
    EXCEPTION_HANDLERS,
    MAX_BYTES_IN_FLIGHT,
    MAX_REQUEST_BYTES,
    Authenticated,
    Bodies,
    client_of,
    in_time,
    refuse_empty_token,
)
from broker.integrations.http_server.routes import Route, Routes

if TYPE_CHECKING:
    from starlette.types import ASGIApp

_POSTED = TypeAdapter(PostedRollout)


def application(
    gateway: Gateway,
    *,
    token: str | None = None,
    max_request_bytes: int = MAX_REQUEST_BYTES,
    max_bytes_in_flight: int = MAX_BYTES_IN_FLIGHT,
) -> ASGIApp:
    """The application of an open gateway, to be served at the root.

    Args:
        gateway: the open gateway.
        token: clients must send it (`Authorization: Bearer TOKEN`); None: every client that can connect is served.
        max_request_bytes: larger bodies are refused.
        max_bytes_in_flight: bodies with more bytes together wait for each other; at least one body is let in.

    Raises:
        BadArgument: the token is empty.
    """
    refuse_empty_token(token)
    endpoints, bodies = _Endpoints(gateway), Bodies(max_request_bytes, max_bytes_in_flight)
    app: ASGIApp = Routes(
        [
            Route("GET", "/task", in_time(endpoints.task)),
            Route("POST", "/rollout", bodies.validated(_POSTED, endpoints.rollout)),
            Route("GET", "/resources/latest", in_time(endpoints.latest_resources)),
            Route("GET", "/resources/{resource_id:path}", in_time(endpoints.resources)),
            *probes(gateway),
        ],
        EXCEPTION_HANDLERS,
    )
    return app if token is None else Authenticated(app, token, public=PUBLIC)


class _Endpoints:
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def task(self, request: Request) -> Response:
        task = await self._gateway.next_task(client_of(request))
        if task is None:
            return JSONResponse({"is_available": False, "task": None})
        return Response(
            b'{"is_available":true,"task":' + task.model_dump_json().encode() + b"}", media_type="application/json"
        )

    async def rollout(self, request: Request, posted: PostedRollout) -> Response:
        received = await self._gateway.receive(posted, client_of(request))
        return JSONResponse(_receipt(posted.rollout_id, received))

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
