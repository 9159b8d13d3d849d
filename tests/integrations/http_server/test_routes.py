"""Which endpoint answers a request, and what is answered where none does."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

pytest.importorskip("starlette", reason="the extra `gateway` is not installed")
pytest.importorskip("uvicorn", reason="the extra `gateway` is not installed")

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from broker.integrations.http_server.requests import EXCEPTION_HANDLERS
from broker.integrations.http_server.routes import Route, Routes


async def _shown(request: Request) -> Response:
    return PlainTextResponse(f"{request.scope['path']} {dict(request.path_params)}")


async def _listed(request: Request) -> Response:
    return PlainTextResponse("the list")


async def _refused(request: Request) -> Response:
    raise HTTPException(409, "no")


async def _broken(request: Request) -> Response:
    raise ZeroDivisionError


ROUTES = Routes(
    [
        Route("GET", "/things/all", _listed),
        Route("GET", "/things/{name}", _shown),
        Route("DELETE", "/things/{name}", _shown),
        Route("POST", "/things/{name}/parts/{part}", _refused),
        Route("GET", "/files/{place:path}", _shown),
        Route("GET", "/broken", _broken),
    ],
    EXCEPTION_HANDLERS,
)


def answered(method: str, path: str) -> tuple[int, str, dict[str, str]]:
    """The status, the body and the headers of an answer."""
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "headers": [], "query_string": b""}
    asyncio.run(ROUTES(scope, receive, send))
    start, body = sent
    headers = {name.decode(): value.decode() for name, value in start["headers"]}
    return start["status"], body["body"].decode(), headers


def test_a_segment_with_a_name_is_given_to_the_endpoint_and_the_first_match_wins() -> None:
    assert answered("GET", "/things/all")[:2] == (200, "the list")
    assert answered("GET", "/things/a b")[:2] == (200, "/things/a b {'name': 'a b'}")


@pytest.mark.parametrize("path", ["/", "/things", "/things/", "/things/a/b", "/thing/a", "/things//parts/b", "/files"])
def test_a_path_that_nothing_has_is_not_found(path: str) -> None:
    status, body, _ = answered("GET", path)
    assert (status, json.loads(body)) == (404, {"detail": "Not Found"})


def test_another_method_is_told_which_ones_the_path_has() -> None:
    status, _, headers = answered("PUT", "/things/a")
    assert (status, headers["allow"]) == (405, "DELETE, GET, HEAD")
    assert answered("GET", "/things/a/parts/b")[2]["allow"] == "POST"


def test_head_is_answered_as_get() -> None:
    assert answered("HEAD", "/things/all")[0] == 200


@pytest.mark.parametrize("rest", ["", "a", "a/b//c"])
def test_a_rest_may_have_slashes_or_be_empty(rest: str) -> None:
    assert answered("GET", f"/files/{rest}")[1] == f"/files/{rest} {{'place': '{rest}'}}"


def test_an_error_is_answered_by_its_type_and_one_of_no_type_is_the_servers() -> None:
    status, body, _ = answered("POST", "/things/a/parts/b")
    assert (status, json.loads(body)) == (409, {"detail": "no"})
    with pytest.raises(ZeroDivisionError):
        answered("GET", "/broken")
