"""A server whose clock steps while it runs, by libfaketime."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from tests.servers import ServerKind, ServerUnderTest, real_kinds
from tests.waiting import wait_until

#: The library of Debian's package `libfaketime`.
_LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
_WRAPPER = """#!/bin/sh
[ "$1" = --version ] || export LD_PRELOAD={library} FAKETIME_TIMESTAMP_FILE={file} FAKETIME_NO_CACHE=1
export FAKETIME_DONT_FAKE_MONOTONIC=1
exec {binary} "$@"
"""


def steppable() -> ServerKind | None:
    """A kind of server that runs under libfaketime: Valkey. Redis with jemalloc does not start under libfaketime."""
    found = [kind for kind in real_kinds() if kind.name == "valkey"]
    return found[0] if found and _LIBRARIES else None


class SteppedServer(ServerUnderTest):
    """A server whose clock a test can step."""

    def __init__(self, kind: ServerKind, file: Path) -> None:
        self._file, self._step_s = file, 0
        super().__init__(kind)

    def step(self, seconds: int) -> None:
        """Steps the server's clock forward or back. On return the server shows the new time."""
        self._step_s += seconds
        fresh = self._file.with_suffix(".new")
        fresh.write_text(f"{self._step_s:+d}\n")
        fresh.replace(self._file)
        wait_until(lambda: abs(int(self.command("TIME")[0]) - time.time() - self._step_s) < 60, "its clock has stepped")


@contextmanager
def stepped_server(kind: ServerKind) -> Generator[SteppedServer]:
    """Runs a server of that kind. Its clock shows the true time at first."""
    with tempfile.TemporaryDirectory(prefix="broker-test-") as folder:
        file, binary = Path(folder, "step"), Path(folder, "server")
        file.write_text("+0\n")
        binary.write_text(_WRAPPER.format(library=_LIBRARIES[0], file=file, binary=kind.binary))
        binary.chmod(0o755)
        with SteppedServer(replace(kind, binary=str(binary)), file) as server:
            yield server
