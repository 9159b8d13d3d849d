"""Which endpoint answers a request, and what is answered when it raises.

Starlette's application does the same by regular expressions, and calls twelve functions for each request: about as much
work as all else that a gateway does for a small one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from broker.values import spans

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

#: An endpoint.
Answer = Callable[[Request], Awaitable[Response]]
#: The answer of an error.
ErrorAnswer = Callable[[Request, Exception], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Route:
    """An endpoint and its place.

    Args:
        method: of HTTP. GET has HEAD, too.
        path: its segments are texts, or `{name}` for one that is not empty. The last one may be `{name:path}`: it has
            the rest of the path.
        answer: the endpoint. It finds the segments that have names in `request.path_params`.
        traced: whether a gateway that is traced makes a span of each request; probes have none.
    """

    method: str
    path: str
    answer: Answer
    traced: bool = True


class Routes:
    """An ASGI application: the endpoints of a gateway.

    Args:
        routes: of two that match the first one is taken.
        handlers: the answers of errors, by their types. An error of no such type is the server's.
    """

    def __init__(self, routes: Sequence[Route], handlers: Mapping[type[Exception], ErrorAnswer]) -> None:
        self._places: dict[tuple[str, int], list[_Place]] = {}
        self._rests: list[_Place] = []
        for route in routes:
            place = _Place(route)
            if place.has_rest:
                self._rests.append(place)
            else:
                self._places.setdefault((route.method, len(place.segments)), []).append(place)
        self._handlers = handlers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request."""
        assert scope["type"] == "http", "the server has no lifespan, and no web sockets"
        request = Request(scope, receive, send)
        try:
            route = self._route(scope)
        except HTTPException as error:
            response = await self._error(request, error)
        else:
            if (active := spans.active) is None or not route.traced:
                response = await self._answer(route, request)
            else:
                traceparent = request.headers.get("traceparent", "")
                with active.serving(route.method, route.path, traceparent) as told:
                    active.note(**request.path_params)
                    response = await self._answer(route, request)
                    told.answered(response.status_code)
        await response(scope, receive, send)

    async def _answer(self, route: Route, request: Request) -> Response:
        try:
            return await route.answer(request)
        except Exception as error:  # noqa: BLE001 - raised again where it has no answer
            return await self._error(request, error)

    async def _error(self, request: Request, error: Exception) -> Response:
        handler = next((self._handlers[kind] for kind in type(error).__mro__ if kind in self._handlers), None)
        if handler is None:
            raise error
        return await handler(request, error)

    def _route(self, scope: Scope) -> Route:
        """The route of a request. Its path's segments are put into the scope. Raises HTTPException."""
        method: str = "GET" if scope["method"] == "HEAD" else scope["method"]
        segments: list[str] = scope["path"].split("/")
        for place in self._places.get((method, len(segments)), ()):
            if (found := place.matched(segments)) is not None:
                scope["path_params"] = found
                return place.route
        for place in self._rests:
            if place.method == method and (found := place.matched(segments)) is not None:
                scope["path_params"] = found
                return place.route
        raise self._none(segments)

    def _none(self, segments: Sequence[str]) -> HTTPException:
        """There is no such path, or it has other methods."""
        alike = [
            *self._rests,
            *(place for (_, n), some in self._places.items() if n == len(segments) for place in some),
        ]
        methods = {place.method for place in alike if place.matched(segments) is not None}
        if not methods:
            return HTTPException(404)
        return HTTPException(
            405, headers={"Allow": ", ".join(sorted(methods | {"HEAD"} if "GET" in methods else methods))}
        )


class _Place:
    def __init__(self, route: Route) -> None:
        self.method, self.route = route.method, route
        last = route.path.rpartition("/")[2]
        self.has_rest = last.startswith("{") and last.endswith(":path}")
        self.segments = [
            (text[1:-1].removesuffix(":path"), True) if text.startswith("{") else (text, False)
            for text in route.path.split("/")
        ]

    def matched(self, segments: Sequence[str]) -> dict[str, str] | None:
        """The segments that have names; None: the path is another one."""
        if self.has_rest:
            n = len(self.segments)
            if len(segments) < n:
                return None
            segments = [*segments[: n - 1], "/".join(segments[n - 1 :])]
        found: dict[str, str] = {}
        for (name, is_named), given in zip(self.segments, segments, strict=True):
            if is_named:
                if not given and not (self.has_rest and name == self.segments[-1][0]):
                    return None
                found[name] = given
            elif name != given:
                return None
        return found
