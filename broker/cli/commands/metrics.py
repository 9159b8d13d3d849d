"""`broker metrics [RUN ...]`: the numbers of runs for Prometheus, once or served over HTTP."""

from __future__ import annotations

import threading
from argparse import ArgumentParser, Namespace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

from broker.cli import options
from broker.cli.failure import EXIT_OK, CommandFailure
from broker.cli.output import Output

if TYPE_CHECKING:
    from collections.abc import Sequence

    from broker.operator import Operator


def configure(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("runs", metavar="RUN", nargs="*", help="the runs (default: all on the server at each scrape)")
    parser.add_argument(
        "--port",
        type=options.port_or_any,
        metavar="P",
        help="serve them on this port; 0: any that is free",
    )
    parser.add_argument("--host", default="127.0.0.1", metavar="H", help="address to listen on (default: 127.0.0.1)")
    options.add_url(parser)
    options.add_examples(
        parser,
        "  broker metrics math-7b                        print them once\n"
        "  broker metrics --port 9464 --host 0.0.0.0     /metrics, /healthz and /readyz for all runs",
    )


def run(namespace: Namespace, output: Output) -> int:
    """Print the metrics, or serve them."""
    with options.connected(namespace) as operator:
        if namespace.port is None:
            output.line(_scraped(operator, namespace.runs).rstrip("\n"))
            return EXIT_OK
        try:
            server = _Server((namespace.host, namespace.port), operator, namespace.runs)
        except OSError as error:
            raise CommandFailure(
                f"cannot listen on {namespace.host}:{namespace.port}: {error.strerror or error}"
            ) from error
        with server:
            output.line(f"http://{namespace.host}:{server.server_port}/metrics")
            server.serve_forever()
    return EXIT_OK


def _scraped(operator: Operator, runs: Sequence[str]) -> str:
    """The text for the runs; without any, for all on the server. A run that is not there any more is left out."""
    from broker.errors import BrokerError, NoRun
    from broker.inspection.metrics import prometheus
    from broker.inspection.stats import Stats

    seen: list[Stats] = []
    for name in runs or operator.runs():
        try:
            seen.append(operator.stats(name))
        except BrokerError as error:
            if runs or not (isinstance(error, NoRun) or error.code in {"SCHEMA", "ERR"}):
                raise
    return prometheus(seen)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], operator: Operator, runs: Sequence[str]) -> None:
        self._operator, self._runs, self._turn = operator, runs, threading.Lock()
        super().__init__(address, _Handler)

    def scraped(self) -> str:
        """The text; one scrape at a time asks the server."""
        with self._turn:
            return _scraped(self._operator, self._runs)


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        """Answers /metrics; /healthz: this process lives; /readyz: the broker's server answers it."""
        from broker.errors import BrokerError

        path = self.path.partition("?")[0]
        if path == "/healthz":
            self._answer(200, "ok\n")
        elif path in ("/metrics", "/readyz"):
            try:
                assert isinstance(self.server, _Server)
                text = self.server.scraped()
            except BrokerError as error:
                self._answer(503, f"{error}\n")
            else:
                self._answer(200, text if path == "/metrics" else "ready\n")
        else:
            self._answer(404, "there are /metrics, /healthz and /readyz\n")

    def _answer(self, status: int, text: str) -> None:
        from broker.inspection.metrics import CONTENT_TYPE

        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", CONTENT_TYPE)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Logs nothing: a scrape every few seconds is no news."""
