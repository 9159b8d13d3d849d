"""`broker serve`: a private server in the foreground."""

from __future__ import annotations

import time
from argparse import ArgumentParser, Namespace
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from broker.cli import options
from broker.cli.failure import CommandFailure
from broker.cli.output import Output

if TYPE_CHECKING:
    from broker.local_server.embedded import EmbeddedServer

_LOOK_S = 0.5


def configure(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "--port",
        type=options.port_or_any,
        metavar="PORT",
        help="listen on this port of 127.0.0.1; 0: any that is free (default: 0)",
    )
    parser.add_argument(
        "--unix", type=_path, metavar="SOCKET", help="listen on this Unix socket; without --port on nothing else"
    )
    parser.add_argument(
        "--path", type=_path, metavar="DIR", help="keep the data in this directory (default: it is gone at the end)"
    )
    options.add_json(parser)
    options.add_examples(
        parser,
        "  broker serve                        # prints the URL to give to trainers, workers and commands\n"
        "  broker serve --port 6399 --path ./broker-data\n\n"
        "It listens on this machine only. For several hosts run Redis or Valkey themselves;\n"
        "docs/operations.md has the settings.",
    )


def run(namespace: Namespace, output: Output) -> int:
    """Serves until Ctrl-C or SIGTERM, then stops the server; only data of --path stays."""
    from broker.local_server.embedded import is_alive
    from broker.local_server.socket_paths import path_in_url

    with _serving(namespace) as server:
        url = server.url
        if namespace.unix is not None and namespace.port is None:
            url = f"unix://{path_in_url(str(namespace.unix.absolute()))}"
        if output.as_json:
            output.json({"url": url, "socket": server.socket, "pid": server.pid, "path": namespace.path})
        else:
            output.line(url)
            kept = f"the data is kept in {namespace.path}" if namespace.path else "the data is gone at the end"
            output.note(f"serving on this machine only; {kept}; Ctrl-C stops it")
        while server.pid is not None and is_alive(server.pid):
            time.sleep(_LOOK_S)
        raise CommandFailure(
            "the server ended by itself" + (f"; its log is {namespace.path}/server.log" if namespace.path else "")
        )


@contextmanager
def _serving(namespace: Namespace) -> Generator[EmbeddedServer]:
    from broker.errors import ServerUnavailable
    from broker.local_server.embedded import EmbeddedServer

    port: int | None = namespace.port
    if port is None and namespace.unix is None:
        port = 0
    try:
        server = EmbeddedServer(str(namespace.path.absolute()) if namespace.path else "", port)
    except ServerUnavailable as error:
        raise CommandFailure(f"the server did not start: {error.fields.get('error', error)}") from error
    try:
        if server.pid is None:
            raise CommandFailure(f"{namespace.path} is served by another process already: {server.url}")
        with _linked(namespace.unix, Path(server.socket)):
            yield server
    finally:
        server.stop()


@contextmanager
def _linked(name: Path | None, socket: Path) -> Generator[None]:
    """A second path of the server's socket, for as long as it runs."""
    if name is None:
        yield
        return
    try:
        if name.is_symlink() and not name.exists():  # a socket of a server that was killed
            name.unlink()
        name.symlink_to(socket)
    except OSError as error:
        raise CommandFailure(f"cannot listen on {name}: {error.strerror}") from error
    try:
        yield
    finally:
        name.unlink(missing_ok=True)


def _path(text: str) -> Path:
    return Path(options.file_path(text))
