"""Private servers for the property tests, on a Unix socket."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager

from broker.protocol import scripts as broker_scripts
from tests.servers import ServerKind, ServerUnderTest, real_kinds

from .driver import Connection, ScriptDriver, Scripts
from .world import Driver


def kind_of(name: str) -> ServerKind:
    """The kind of server with this name (`redis-7.0.15`), or with a name that begins so."""
    for kind in real_kinds():
        if str(kind).startswith(name):
            return kind
    raise RuntimeError(f"no server {name!r} is installed; there are {', '.join(map(str, real_kinds())) or 'none'}")


@contextmanager
def server(kind: ServerKind) -> Generator[str]:
    """Runs a private server; gives the path of its socket."""
    with ServerUnderTest(kind) as running:
        yield str(running.process.socket)


@contextmanager
def drivers_of(kind: ServerKind) -> Generator[Callable[[], Driver]]:
    """A maker of drivers over a private server, each with an empty store.

    Valkey is called by functions, Redis by scripts.
    """
    with server(kind) as path:
        connection = Connection(path)
        shared = Scripts(shebang=kind.supports_shebang)
        library = broker_scripts.library() if kind.name == "valkey" else None

        def make() -> Driver:
            return ScriptDriver(connection, shared, library)

        try:
            yield make
        finally:
            connection.close()
