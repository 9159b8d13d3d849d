"""The pages and their data over HTTP, as an ASGI application."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from broker.clients.operator import Operator
from broker.errors import BadName, NoRun
from broker.integrations.http_server.requests import EXCEPTION_HANDLERS, Bodies, in_time
from broker.protocol import keys
from broker.protocol.ids import worker_of
from broker.protocol.task_row import SLOT_LETTERS
from broker.values.names import check_name
from broker.web.access import COOKIE, HEADERS, SECRET_HEADER, SESSION_S, Access
from broker.web.snapshot import overview_row
from broker.web.task_history import history_of, payload_in_words
from broker.web.watchers import PATIENCE_S, Watchers

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

T = TypeVar("T")

#: Most runs on the page of all runs, and tasks in one answer.
RUNS: Final = 200
TASKS: Final = 200
#: Pause between two looks of a page for news of its run, in seconds, where no look came.
_HEARTBEAT_S: Final = 15.0
_MAX_REQUEST_BYTES: Final = 256 * 1024

_STATIC: Final = files("broker.web") / "static"
_TYPES: Final = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}


class _Change(BaseModel):
    """What a button asks for."""

    model_config = ConfigDict(extra="forbid")

    run: str
    action: Literal["pause", "drain", "resume", "resume_halted", "retry", "cancel", "readmit"]
    names: list[str] = Field(default_factory=list[str], max_length=TASKS)


class _LogIn(BaseModel):
    model_config = ConfigDict(extra="forbid")

    token: str = Field(max_length=1000)


@dataclass(frozen=True, slots=True)
class Website:
    """What the pages need.

    Args:
        url: the server.
        access: who may see and change what.
        show_payloads: show the payloads of tasks.
        first_run: the run whose page `/` leads to; empty: the page of all runs.
    """

    url: str
    access: Access
    show_payloads: bool = False
    first_run: str = ""


@asynccontextmanager
async def application(site: Website) -> AsyncGenerator[tuple[ASGIApp, Callable[[], None]]]:
    """The application, and a function that ends the streams of all pages. Its connections close at the end."""
    endpoints = _Endpoints(site, asyncio.get_running_loop())
    app = Starlette(routes=endpoints.routes(), exception_handlers={**EXCEPTION_HANDLERS, **_HANDLERS})
    try:
        yield _Guarded(app, site.access), endpoints.end_streams
    finally:
        endpoints.end_streams()
        await asyncio.to_thread(endpoints.close)


class _Guarded:
    """Refuses requests for other hosts, and gives each answer its headers."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request = Request(scope)
        if not self._access.is_for_us(request.headers.get("host", "")):
            answer = JSONResponse({"detail": "This server was not started for that host name: see --host."}, 421)
            await answer(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await self._app(scope, receive, with_headers)


class _Endpoints:
    def __init__(self, site: Website, loop: asyncio.AbstractEventLoop) -> None:
        self._site, self._loop = site, loop
        self._operator = Operator(site.url, retry_for_s=PATIENCE_S, timeout_s=PATIENCE_S)
        self._one_at_a_time = threading.Lock()
        self._watchers = Watchers(site.url, self._looked)
        self._news = asyncio.Event()
        self._ending = False
        self._bodies = Bodies(_MAX_REQUEST_BYTES, 4 * 1024 * 1024)

    def routes(self) -> list[Route]:
        page, data = self._page, self._data
        return [
            Route("/", self._front, methods=["GET"]),
            Route("/runs", page, methods=["GET"]),
            Route("/run", page, methods=["GET"]),
            Route("/task", page, methods=["GET"]),
            Route("/ended", page, methods=["GET"]),
            Route("/static/{name}", self._static, methods=["GET"]),
            Route("/healthz", self._alive, methods=["GET"]),
            Route("/readyz", in_time(self._ready), methods=["GET"]),
            Route("/api/session", self._session, methods=["GET"]),
            Route("/api/login", self._bodies.validated(TypeAdapter(_LogIn), self._log_in), methods=["POST"]),
            Route("/api/logout", self._log_out, methods=["POST"]),
            Route("/api/runs", data(self._runs), methods=["GET"]),
            Route("/api/run", data(self._run), methods=["GET"]),
            Route("/api/stream", self._stream, methods=["GET"]),
            Route("/api/task", data(self._task), methods=["GET"]),
            Route("/api/ended", data(self._ended), methods=["GET"]),
            Route("/api/change", self._bodies.validated(TypeAdapter(_Change), self._change), methods=["POST"]),
        ]

    # -- pages -----------------------------------------------------------------------------------------------------

    async def _front(self, _request: Request) -> Response:
        run = self._site.first_run
        return RedirectResponse(f"/run?run={run}" if run else "/runs", 307)

    async def _page(self, _request: Request) -> Response:
        return Response((_STATIC / "page.html").read_bytes(), media_type="text/html")

    async def _static(self, request: Request) -> Response:
        name: str = request.path_params["name"]
        kind = _TYPES.get(name.rpartition(".")[2])
        if kind is None or "/" in name or name.startswith(".") or not (_STATIC / name).is_file():
            raise HTTPException(404, "There is no such file.")
        return Response((_STATIC / name).read_bytes(), media_type=kind)

    async def _alive(self, _request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def _ready(self, _request: Request) -> Response:
        await self._ask(lambda operator: operator.transport.command("PING"))
        return JSONResponse({"status": "ok"})

    # -- sessions --------------------------------------------------------------------------------------------------

    async def _session(self, request: Request) -> Response:
        access, cookie = self._site.access, _cookie(request)
        found = access.session(cookie)
        return JSONResponse(
            {
                "may_see": access.may_see(cookie),
                "may_change": found is not None,
                "has_token": bool(access.token),
                "secret": found.secret if found else "",
                "first_run": self._site.first_run,
            }
        )

    async def _log_in(self, request: Request, given: _LogIn) -> Response:
        cookie = self._site.access.log_in(given.token)
        if cookie is None:
            raise HTTPException(403, "That is not the token, or too many wrong ones were tried: wait half a minute.")
        answer = JSONResponse({})
        secure = request.headers.get("x-forwarded-proto", request.url.scheme) == "https"
        answer.set_cookie(COOKIE, cookie, int(SESSION_S), httponly=True, samesite="strict", secure=secure)
        return answer

    async def _log_out(self, request: Request) -> Response:
        self._may_change(request)
        self._site.access.log_out(_cookie(request))
        answer = JSONResponse({})
        answer.delete_cookie(COOKIE)
        return answer

    def _may_see(self, request: Request) -> None:
        if not self._site.access.may_see(_cookie(request)):
            raise HTTPException(401, "Give the token first.")

    def _may_change(self, request: Request) -> None:
        if not self._site.access.may_change(_cookie(request), request.headers.get(SECRET_HEADER, "")):
            raise HTTPException(403, "Changes need the token: give it first.")

    # -- data ------------------------------------------------------------------------------------------------------

    def _data(self, answer: Callable[[Request], Awaitable[Any]]) -> Callable[[Request], Awaitable[Response]]:
        async def answered(request: Request) -> Response:
            self._may_see(request)
            return JSONResponse(await answer(request))

        return in_time(answered)

    async def _ask(self, question: Callable[[Operator], T]) -> T:
        def asked() -> T:
            with self._one_at_a_time:
                return question(self._operator)

        return await asyncio.to_thread(asked)

    async def _runs(self, _request: Request) -> Any:
        def look(operator: Operator) -> Any:
            names, rows = operator.runs(), list[dict[str, Any]]()
            for name in names[:RUNS]:
                try:
                    rows.append(overview_row(operator.stats(name)))
                except NoRun:  # purged meanwhile
                    continue
            return {"runs": rows, "more": max(0, len(names) - RUNS)}

        return await self._ask(look)

    async def _run(self, request: Request) -> Any:
        run = _run_of(request)
        watcher = self._watchers.of(run)
        while watcher.number == 0:
            await self._news_within(_HEARTBEAT_S)
        if watcher.latest is None:
            raise HTTPException(404 if watcher.is_missing else 503, watcher.problem)
        return {**watcher.latest, "problem": watcher.problem}

    async def _stream(self, request: Request) -> Response:
        self._may_see(request)
        run = _run_of(request)

        async def told() -> AsyncIterator[bytes]:
            seen = 0
            while not self._ending:
                watcher = self._watchers.of(run)
                if watcher.number != seen:
                    seen = watcher.number
                    news = {"look": watcher.latest, "problem": watcher.problem}
                    yield f"data: {json.dumps(news, separators=(',', ':'))}\n\n".encode()
                elif not await self._news_within(_HEARTBEAT_S):
                    yield b": nothing new\n\n"

        return StreamingResponse(told(), media_type="text/event-stream", headers={"x-accel-buffering": "no"})

    async def _task(self, request: Request) -> Any:
        run, task = _run_of(request), check_name("task", request.query_params.get("id", ""))

        def look(operator: Operator) -> Any:
            operator.stats(run)
            found = operator.task(run, task)
            history, whole = history_of(operator, run, task)
            if found is None and not history:
                raise HTTPException(404, f"Run {run} knows no task {task}.")
            row: dict[str, Any] = {} if found is None else asdict(found)
            for slot, letter in zip(row.get("slots", ()), row.get("letters", ""), strict=False):
                slot.update(worker=worker_of(slot["session"]), now=SLOT_LETTERS.get(letter, letter))
            payload = None
            if self._site.show_payloads and found is not None:
                payload = payload_in_words(operator.transport.command("HGET", keys.key(run, "payloads"), task))
            return {"id": task, "task": row or None, "history": history, "is_whole": whole, "payload": payload}

        return await self._ask(look)

    async def _ended(self, request: Request) -> Any:
        run, kind = _run_of(request), request.query_params.get("kind", "dead")
        if kind not in ("dead", "rejected"):
            raise HTTPException(400, "kind is dead or rejected.")

        def look(operator: Operator) -> Any:
            stats = operator.stats(run)
            rows = [asdict(one) for one in operator.dead(run, kind, TASKS)]
            there = stats.dead if kind == "dead" else stats.rejected
            return {"rows": rows, "more": max(0, there - len(rows)), "kind": kind}

        return await self._ask(look)

    async def _change(self, request: Request, change: _Change) -> Response:
        self._may_change(request)
        run = check_name("run", change.run)

        def make(operator: Operator) -> Any:
            match change.action:
                case "pause":
                    return {"before": operator.pause(run)}
                case "drain":
                    return {"before": operator.pause(run, "draining")}
                case "resume":
                    return {"before": operator.resume(run)}
                case "resume_halted":
                    return {"before": operator.resume(run, halted=True)}
                case "readmit":
                    return {"sessions": operator.readmit(run, change.names)}
                case "retry":
                    return {"answers": operator.retry(run, change.names)}
                case "cancel":
                    return {"answers": operator.cancel(run, change.names)}

        return JSONResponse(await self._ask(make))

    # -- streams ---------------------------------------------------------------------------------------------------

    def _looked(self) -> None:
        """A watcher has looked; called from its thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._tell)

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def _news_within(self, seconds: float) -> bool:
        """Waits for the next look of any watcher, or the end. Returns whether there was one."""
        try:
            await asyncio.wait_for(self._news.wait(), seconds)
        except TimeoutError:
            return False
        return True

    def end_streams(self) -> None:
        """Ends the streams of all pages."""
        self._ending = True
        self._tell()

    def close(self) -> None:
        """Ends the watchers and closes the connections."""
        self._watchers.close()
        with self._one_at_a_time:
            self._operator.close()


def _cookie(request: Request) -> str:
    return request.cookies.get(COOKIE, "")


def _run_of(request: Request) -> str:
    return check_name("run", request.query_params.get("run", ""))


async def _missing(_request: Request, error: Exception) -> Response:
    return JSONResponse({"detail": str(error)}, status_code=404)


async def _wrong(_request: Request, error: Exception) -> Response:
    return JSONResponse({"detail": str(error)}, status_code=400)


_HANDLERS: Final[dict[Any, Any]] = {NoRun: _missing, BadName: _wrong}
