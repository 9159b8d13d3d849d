"""The API over HTTP, as an ASGI application: routes and messages."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from broker.integrations.agent_lightning_1.gateway import Gateway
from broker.integrations.agent_lightning_1.messages import (
    FINAL,
    EventCreate,
    EventsQuery,
    ListQuery,
    RolloutCreate,
    RolloutPatch,
    TerminalQuery,
)
from broker.integrations.agent_lightning_1.models import Model, PauseRequest
from broker.integrations.agent_lightning_1.rollouts import Refused
from broker.integrations.agent_lightning_1.shares import Who, who
from broker.integrations.http_server.probes import PUBLIC, probes
from broker.integrations.http_server.requests import (
    EXCEPTION_HANDLERS,
    MAX_BYTES_IN_FLIGHT,
    MAX_REQUEST_BYTES,
    Authenticated,
    Bodies,
    client_of,
    in_time,
    invalid,
    refuse_empty_token,
)
from broker.integrations.http_server.routes import Route, Routes

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

#: The header that may bring the token, beside Authorization.
TOKEN_HEADER = b"x-api-key"
#: Begins the paths of a controller that has a name.
_NAMED = "/controller/"

_CREATED: TypeAdapter[list[RolloutCreate]] = TypeAdapter(list[RolloutCreate])
_PATCH, _EVENT, _PAUSE = TypeAdapter(RolloutPatch), TypeAdapter(EventCreate), TypeAdapter(PauseRequest)
_MODELS: TypeAdapter[list[Model]] = TypeAdapter(list[Model])


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
        token: clients must send it (`Authorization: Bearer TOKEN`, or `x-api-key`); None: no token.
        max_request_bytes: larger bodies are refused.
        max_bytes_in_flight: bodies with more bytes together wait for each other; at least one body is let in.

    Raises:
        BadArgument: the token is empty.
    """
    refuse_empty_token(token)
    endpoints = _Endpoints(gateway, Bodies(max_request_bytes, max_bytes_in_flight))
    handlers = {**EXCEPTION_HANDLERS, Refused: _refused}
    app: ASGIApp = _Named(Routes(endpoints.routes(), handlers))
    return app if token is None else Authenticated(app, token, header=TOKEN_HEADER, public=PUBLIC)


class _Named:
    """Takes the controller's name out of a path. To match every route with and without one would cost twice the time.

    Args:
        app: gets the path that follows the name, and the name as `controller` in the scope.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on."""
        if scope["type"] == "http" and scope["path"].startswith(_NAMED):
            name, slash, rest = scope["path"].removeprefix(_NAMED).partition("/")
            scope = {**scope, "path": slash + rest, "controller": name}
        await self._app(scope, receive, send)


class _Endpoints:
    def __init__(self, gateway: Gateway, bodies: Bodies) -> None:
        self._gateway, self._bodies = gateway, bodies

    def routes(self) -> list[Route]:
        """All routes."""
        rollouts = "/api/rollouts"
        return [
            Route("PATCH", f"{rollouts}/{{rollout_id}}", self._bodies.validated(_PATCH, self._patch)),
            Route("POST", rollouts, self._bodies.validated(_CREATED, self._create)),
            Route("GET", rollouts, in_time(self.listed)),
            Route("GET", f"{rollouts}/terminal", in_time(self.terminal)),
            Route("GET", f"{rollouts}/{{rollout_id}}", in_time(self.rollout)),
            Route("DELETE", f"{rollouts}/{{rollout_id}}", in_time(self.delete)),
            Route(
                "POST",
                f"{rollouts}/{{rollout_id}}/attempt/{{attempt_id}}/events",
                self._bodies.validated(_EVENT, self._event),
            ),
            Route("GET", f"{rollouts}/{{rollout_id}}/events", in_time(self.events)),
            *probes(self._gateway),
            Route("GET", "/api/gateway", in_time(self.about)),
            Route("POST", "/api/models", self._bodies.validated(_MODELS, self._register)),
            Route("DELETE", "/api/models", in_time(self.forget_models)),
            Route("POST", "/proxy/pause", self._bodies.validated(_PAUSE, self._pause)),
            Route("POST", "/proxy/resume", in_time(self.resume)),
            Route("GET", "/proxy/state", in_time(self.state)),
            Route(
                "POST",
                "/proxy/rollout/{rollout_id}/attempt/{attempt_id}/mode/{mode}/openai/v1/{path:path}",
                self.model_request,
            ),
        ]

    async def about(self, request: Request) -> Response:
        return JSONResponse({"run": self._gateway.run, "refused": await self._gateway.storage.refused()})

    async def _create(self, request: Request, wanted: list[RolloutCreate]) -> Response:
        return _json_list(await self._gateway.rollouts.create(wanted), status=201)

    async def listed(self, request: Request) -> Response:
        try:
            query = ListQuery(
                state_in=request.query_params.getlist("state_in"),  # pyright: ignore[reportArgumentType] - judged here
                limit=request.query_params.get("limit", 500),  # pyright: ignore[reportArgumentType]
            )
        except ValidationError as error:
            return invalid(error, "query")
        states, rows = frozenset(query.state_in), list[bytes]()
        if states - FINAL:
            rows = await self._gateway.controllers.listed(_asking(request), states - FINAL, query.limit)
        if states & FINAL and len(rows) < query.limit:
            rows += await self._gateway.rollouts.of_final_states(states & FINAL, query.limit - len(rows))
        return _json_list(rows)

    async def terminal(self, request: Request) -> Response:
        try:
            query = TerminalQuery.model_validate(dict(request.query_params))
        except ValidationError as error:
            return invalid(error, "query")
        await self._gateway.note_deaths()
        page = await self._gateway.rollouts.ended(query.after, query.limit)
        items = [
            {"rollout_id": rollout, "state": state, "data_id": record.data_id, "is_train": record.is_train}
            for rollout, state, record in page.items
        ]
        return JSONResponse({"items": items, "next_after": page.next_after, "total_terminal": page.total})

    async def rollout(self, request: Request) -> Response:
        return _json(await self._gateway.rollouts.get(request.path_params["rollout_id"]))

    async def _patch(self, request: Request, change: RolloutPatch) -> Response:
        rollout: str = request.path_params["rollout_id"]
        return _json(await self._gateway.changes.patch(_asking(request), rollout, change.status))

    async def delete(self, request: Request) -> Response:
        await self._gateway.rollouts.delete(request.path_params["rollout_id"])
        return Response(status_code=204)

    async def _event(self, request: Request, event: EventCreate) -> Response:
        path = request.path_params
        return _json(await self._gateway.events.add(path["rollout_id"], path["attempt_id"], event))

    async def _register(self, request: Request, models: list[Model]) -> Response:
        await self._gateway.models.register(models)
        return JSONResponse([model.model_dump() for model in models], status_code=201)

    async def forget_models(self, request: Request) -> Response:
        await self._gateway.models.delete_all()
        return JSONResponse({"status": "ok"})

    async def _pause(self, request: Request, pause: PauseRequest) -> Response:
        return JSONResponse((await self._gateway.models.pause(pause)).model_dump())

    async def resume(self, request: Request) -> Response:
        return JSONResponse((await self._gateway.models.resume()).model_dump())

    async def state(self, request: Request) -> Response:
        return JSONResponse((await self._gateway.models.state()).model_dump())

    async def model_request(self, request: Request) -> Response:
        """Passes a request on to a model, for as long as the agent waits."""
        path = request.path_params
        async with self._bodies.read(request) as body:
            try:
                given: Any = json.loads(bytes(body)) if body else {}
            except ValueError:
                raise Refused(400, "Invalid JSON in request body") from None
            body.clear()
            answering = asyncio.create_task(
                self._gateway.proxy.answer(path["rollout_id"], path["attempt_id"], path["mode"], path["path"], given)
            )
            gone = asyncio.create_task(_disconnected(request))
            try:
                await asyncio.wait((answering, gone), return_when=asyncio.FIRST_COMPLETED)
                if not answering.done():
                    return Response(status_code=499)  # nobody reads it
                answered = answering.result()
            finally:
                for task in (answering, gone):
                    task.cancel()
                await asyncio.gather(answering, gone, return_exceptions=True)
        return JSONResponse(answered.body, status_code=answered.status, headers=answered.headers)

    async def events(self, request: Request) -> Response:
        try:
            query = EventsQuery.model_validate(dict(request.query_params))
        except ValidationError as error:
            return invalid(error, "query")
        return _json(await self._gateway.events.of(request.path_params["rollout_id"], query))


async def _disconnected(request: Request) -> None:
    """Returns when the client of a request, whose body has been read, is gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _asking(request: Request) -> Who:
    name: str | None = request.scope.get("controller")
    found = who(name, client_of(request))
    if found is None:
        raise Refused(404, f"A controller's name has letters, digits and ._:@+-, not {str(name)[:200]!r}.")
    return found


def _json(body: bytes) -> Response:
    return Response(body, media_type="application/json")


def _json_list(rows: list[bytes], *, status: int = 200) -> Response:
    return Response(b"[" + b",".join(rows) + b"]", status_code=status, media_type="application/json")


async def _refused(request: Request, error: Exception) -> Response:  # noqa: ARG001 - the shape of a handler
    assert isinstance(error, Refused), "registered for it"
    return JSONResponse({"detail": error.detail}, status_code=error.status)
