"""`broker web [RUN]`: pages that show runs in a browser."""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib import import_module
from typing import TYPE_CHECKING

from broker.cli import options
from broker.cli.failure import CommandFailure, extra_needed
from broker.cli.output import Output

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from broker.integrations.http_server import foreground

#: The environment variable for the token: every user of the machine can see --token in the process list.
TOKEN_VARIABLE = "BROKER_WEB_TOKEN"  # noqa: S105 - the name of a variable
_EXTRA = frozenset({"starlette", "uvicorn"})


def configure(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("run", metavar="RUN", nargs="?", help="the run whose page comes first (default: all runs)")
    parser.add_argument(
        "--port", type=options.port_or_any, default=8265, metavar="P", help="port; 0: any that is free (default: 8265)"
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="H",
        help="address to listen on; another than this machine's own needs a token (default: 127.0.0.1)",
    )
    parser.add_argument(
        "--token",
        metavar="T",
        help="whoever gives it in the browser may pause, resume, retry and cancel "
        f"(default: the environment variable {TOKEN_VARIABLE}; without a token pages only show)",
    )
    parser.add_argument("--show-payloads", action="store_true", help="show the payloads of tasks, too")
    options.add_url(parser)
    options.add_json(parser)
    options.add_examples(
        parser,
        "  broker web                                  # all runs, on http://127.0.0.1:8265\n"
        "  broker web math-7b --port 9000\n"
        f"  export {TOKEN_VARIABLE}=$(python3 -c 'import secrets; print(secrets.token_urlsafe())')\n"
        "  broker web --host 0.0.0.0                   # for other machines: they give the token first\n\n"
        "It asks the server only while a page is open, and holds no state. docs/web.md has the rest.",
    )


def run(namespace: Namespace, output: Output) -> int:
    """Serve until Ctrl-C or SIGTERM."""
    with extra_needed("web", "the web page", _EXTRA):
        for name in sorted(_EXTRA):
            import_module(name)
        from broker.integrations.http_server import foreground, serving
    from broker.web.access import LOOPBACK

    token: str = os.environ.get(TOKEN_VARIABLE, "") if namespace.token is None else namespace.token
    if namespace.token == "":
        raise CommandFailure(
            "the token is empty, which would protect nothing: leave --token out for pages that only show"
        )
    if not namespace.host:
        raise CommandFailure("the address to listen on is empty: leave --host out for this machine")
    is_private = namespace.host in LOOPBACK
    if not is_private and not token:
        raise CommandFailure(
            f"other machines could read every run at {namespace.host}: give a token with --token or {TOKEN_VARIABLE}"
        )
    with options.connected(namespace) as operator:
        if namespace.run is None:
            operator.runs()  # a server that does not answer is reported at once
        else:
            operator.stats(namespace.run)
    try:
        listener = serving.Listener(namespace.host, namespace.port)
    except OSError as error:
        raise CommandFailure(f"cannot listen on {namespace.host} port {namespace.port}: {error.strerror}") from error

    def say() -> None:
        if output.as_json:
            output.json({"endpoint": listener.endpoint, "run": namespace.run, "pid": os.getpid()})
            return
        output.line(listener.endpoint)
        changes = "the token lets a browser change runs" if token else "pages only show; --token lets them change runs"
        output.note(f"serving pages; {changes}; Ctrl-C stops it")

    return foreground.serve(listener, lambda: _application(namespace, token, is_private=is_private), say)


@asynccontextmanager
async def _application(
    namespace: Namespace, token: str, *, is_private: bool
) -> AsyncGenerator[tuple[ASGIApp, foreground.End]]:
    from broker.web.access import LOOPBACK, Access
    from broker.web.application import Website, application

    access = Access(token, needs_token=not is_private, hosts=LOOPBACK if is_private else frozenset())
    site = Website(options.resolve_url(namespace), access, namespace.show_payloads, namespace.run or "")
    async with application(site) as served:
        yield served
