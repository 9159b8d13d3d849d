"""`broker gateway RUN`: serves a run to workers that speak another system's protocol."""

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
TOKEN_VARIABLE = "BROKER_GATEWAY_TOKEN"  # noqa: S105 - the name of a variable
#: Packages that the gateway needs and the base install lacks, by import name.
_EXTRA = frozenset({"httpx", "starlette", "uvicorn"})
#: Of them, those that only agent-lightning 1.x needs.
_REST_ONLY = frozenset({"httpx"})
#: The protocols: agent-lightning's up to 0.3, and that of 1.x.
LEGACY, REST = "agent-lightning", "agent-lightning-1"


def configure(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    options.add_run(parser)
    parser.add_argument(
        "--protocol",
        required=True,
        choices=[LEGACY, REST],
        help=f"what the clients speak: {LEGACY}: agent-lightning up to 0.3; {REST}: agent-lightning 1.x",
    )
    parser.add_argument(
        "--port", required=True, type=options.port_or_any, metavar="P", help="port to listen on; 0: any that is free"
    )
    parser.add_argument(
        "--host", default="127.0.0.1", metavar="H", help="address to listen on; 0.0.0.0: all (default: 127.0.0.1)"
    )
    parser.add_argument(
        "--token",
        metavar="T",
        help=f"clients must send it as bearer token (default: the environment variable {TOKEN_VARIABLE}, or none)",
    )
    parser.add_argument(
        "--max-request-bytes",
        type=options.positive_int,
        default=64 * 1024 * 1024,
        metavar="N",
        help="refuse larger requests (default: 64 MiB)",
    )
    parser.add_argument(
        "--max-bytes-in-flight",
        type=options.positive_int,
        default=128 * 1024 * 1024,
        metavar="N",
        help="let requests with more bytes together wait for each other (default: 128 MiB)",
    )
    parser.add_argument(
        "--task-timeout",
        type=options.positive_seconds,
        metavar="S",
        help=f"with {LEGACY}: seconds that a worker may take for a task (default: the run's attempt_timeout_ms, or"
        " else 300)",
    )
    parser.add_argument(
        "--traces",
        action="store_true",
        help="make spans of OpenTelemetry of requests; needs the extra otel, and this release for all trainers",
    )
    rest = parser.add_argument_group(f"with {REST}")
    rest.add_argument("--model", metavar="NAME", help="model that agents' requests go to (default: the only one)")
    rest.add_argument("--train-temperature", type=float, default=1.0, metavar="T", help="temperature (default: 1)")
    rest.add_argument("--val-temperature", type=float, default=0.7, metavar="T", help="for validation (default: 0.7)")
    rest.add_argument("--no-log-probs", action="store_true", help="do not ask models for log-probabilities")
    rest.add_argument("--routed-experts", action="store_true", help="ask models for the experts of each token")
    options.add_url(parser)
    options.add_json(parser)
    options.add_examples(
        parser,
        "  broker gateway math-7b --protocol agent-lightning --port 9997\n"
        f"  export {TOKEN_VARIABLE}=$(cat token)\n"
        "  broker gateway math-7b --protocol agent-lightning --host 0.0.0.0 --port 9997\n"
        "  broker gateway math-7b --protocol agent-lightning-1 --port 8080\n\n"
        "It holds no state: run several, restart them at any time. docs/integrations/agent-lightning.md has the rest,\n"
        "and docs/integrations/agent-lightning-1.md for agent-lightning 1.x, whose run is created if it is not there.",
    )


def run(namespace: Namespace, output: Output) -> int:
    """Serve until Ctrl-C or SIGTERM, then let the requests under way end."""
    with extra_needed("gateway", "the gateway", _EXTRA):
        for name in sorted(_EXTRA - (frozenset() if namespace.protocol == REST else _REST_ONLY)):
            import_module(name)
        from broker.integrations.http_server import foreground, serving
    if namespace.traces:
        with extra_needed("otel", "--traces", frozenset({"opentelemetry"})):
            import_module("broker.tracing").install()
    token: str | None = os.environ.get(TOKEN_VARIABLE) if namespace.token is None else namespace.token
    if token == "":
        raise CommandFailure(
            f"the token is empty, which would protect nothing: give --token, or unset {TOKEN_VARIABLE}"
        )
    if token is not None and not (token.isascii() and token.isprintable() and " " not in token):
        raise CommandFailure("the token holds what no worker could send as a header: use letters, digits and -._~+/=")
    if not namespace.host:
        raise CommandFailure(
            "the address to listen on is empty: give --host 0.0.0.0 for all, or leave it out for this machine"
        )
    if namespace.protocol == REST and namespace.task_timeout is not None:
        raise CommandFailure(
            f"--task-timeout is for --protocol {LEGACY}: with {REST} the run's attempt_timeout_ms counts"
        )
    url = options.resolve_url(namespace)
    if namespace.protocol == LEGACY:
        with options.connected(namespace) as operator:
            operator.stats(namespace.run)  # a missing run is reported at once
    try:
        listener = serving.Listener(namespace.host, namespace.port)
    except OSError as error:
        raise CommandFailure(f"cannot listen on {namespace.host} port {namespace.port}: {error.strerror}") from error

    def say() -> None:
        _say(output, namespace, listener.endpoint, has_token=token is not None)

    return foreground.serve(listener, lambda: _application(namespace, url, token), say)


@asynccontextmanager
async def _application(
    namespace: Namespace, url: str, token: str | None
) -> AsyncGenerator[tuple[ASGIApp, foreground.End]]:
    """The application of an open gateway."""
    limits = {
        "max_request_bytes": namespace.max_request_bytes,
        "max_bytes_in_flight": namespace.max_bytes_in_flight,
    }
    if namespace.protocol == LEGACY:
        from broker.integrations.agent_lightning import application
        from broker.integrations.agent_lightning.gateway import Gateway

        async with Gateway(url, namespace.run, task_timeout_s=namespace.task_timeout) as gateway:
            yield application.application(gateway, token=token, **limits), _nothing_to_end
    else:
        from broker.integrations.agent_lightning_1 import application as rest
        from broker.integrations.agent_lightning_1.gateway import Gateway as RestGateway
        from broker.integrations.agent_lightning_1.proxy import ProxyConfig

        proxy = ProxyConfig(
            model=namespace.model,
            train_temperature=namespace.train_temperature,
            val_temperature=namespace.val_temperature,
            log_probs=not namespace.no_log_probs,
            routed_experts=namespace.routed_experts,
        )
        async with RestGateway(url, namespace.run, proxy=proxy) as opened:
            yield rest.application(opened, token=token, **limits), _nothing_to_end


def _nothing_to_end() -> None:
    """A gateway has no request that would go on by itself."""


def _say(output: Output, namespace: Namespace, endpoint: str, *, has_token: bool) -> None:
    if output.as_json:
        output.json({"endpoint": endpoint, "run": namespace.run, "protocol": namespace.protocol, "pid": os.getpid()})
        return
    output.line(endpoint)
    clients = "agent-lightning workers" if namespace.protocol == LEGACY else "agent-lightning 1.x"
    output.note(f"serving run {namespace.run} to {clients}; Ctrl-C stops it")
    if not has_token and namespace.host not in {"127.0.0.1", "::1", "localhost"}:
        output.note(f"without --token, whoever reaches {endpoint} may take tasks and report rollouts")
