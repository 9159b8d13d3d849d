"""The private server of a run, the reference, and sizes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.bare import Bare, pairs_one_at_a_time
from benchmarks.resp import RawClient, info
from broker.local_server.embedded import EmbeddedServer

#: Pairs of one sample of the reference.
REFERENCE_PAIRS = 600


class Lab:
    """The private server on which the cases run, and how large the cases are.

    Args:
        server: path of a Redis or Valkey server, "" for the embedded Valkey.
        quick: small sizes, to see that everything works.
        peers: names of the peers to run.
        directory: where peers' environments are kept.
    """

    def __init__(self, server: str, *, quick: bool, peers: Sequence[str], directory: Path) -> None:
        self.quick, self.peers, self.directory = quick, list(peers), directory
        self.binary = server
        self.server = EmbeddedServer(port=0, binary=server)
        self.url = self.server.url
        self.control = RawClient(self.url)
        self.bare = Bare(self.control)
        self._names = 0

    def size(self, full: int, quick: int) -> int:
        """Returns `full` in a full run, `quick` in a quick one."""
        return quick if self.quick else full

    def run_name(self) -> str:
        """Returns a new name of a run."""
        self._names += 1
        return f"bench-{self._names}"

    def clean(self) -> None:
        """Empties the server; scripts stay loaded."""
        self.control.call("FLUSHALL", "SYNC")

    def reference(self) -> float:
        """One sample of `ref`: pairs a second."""
        count = REFERENCE_PAIRS // (4 if self.quick else 1)
        self.bare.seed(count)
        seconds = pairs_one_at_a_time(self.bare, count)
        self.bare.clear()
        return count / seconds

    def server_cpu_s(self) -> float:
        """CPU time of the server so far, in seconds."""
        cpu = info(self.control, "cpu")
        return float(cpu["used_cpu_sys"]) + float(cpu["used_cpu_user"])

    def memory_bytes(self) -> int:
        """The bytes that the server has allocated, without the buffers of its clients.

        A client's buffer may stay as large as the last value that the client sent, and the server shrinks buffers only
        once a second.
        """
        time.sleep(0.1 if self.quick else 1.2)
        memory = info(self.control, "memory")
        return int(memory["used_memory"]) - int(memory["mem_clients_normal"])

    @contextmanager
    def another_server(self, **settings: str) -> Iterator[str]:
        """Runs a second private server of the same kind, with other settings, while the block runs; gives its URL."""
        server = EmbeddedServer(
            port=0, binary=self.binary, settings={k.replace("_", "-"): v for k, v in settings.items()}
        )
        try:
            yield server.url
        finally:
            server.stop()

    def about(self) -> dict[str, object]:
        """The server and the machine that the numbers were measured on."""
        told = info(self.control, "server")
        return {
            "server": f"{'valkey' if 'valkey_version' in told else 'redis'} "
            f"{told.get('valkey_version') or told['redis_version']}",
            "allocator": info(self.control, "memory")["mem_allocator"],
            "cores": os.cpu_count(),
            "load": os.getloadavg()[0],
            "date": time.strftime("%Y-%m-%d %H:%M:%S %z"),
            "quick": self.quick,
        }

    def close(self) -> None:
        """Stops the server."""
        self.control.close()
        self.server.stop()
