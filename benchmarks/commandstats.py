"""The server's time and calls for a piece of work, from INFO commandstats."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from benchmarks.resp import RawClient, info

_SCRIPTS = ("evalsha", "eval", "fcall")
#: Commands that the measurement itself sends.
_OWN = {"config|resetstat", "info", "select", "client|setinfo", "client|setname", "hello", "script|load", "ping"}


@dataclass(slots=True)
class Spent:
    """Calls and microseconds by command.

    Args:
        calls: command -> (calls, microseconds); the scripts' time includes the commands that scripts call.
    """

    calls: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def micros(self) -> int:
        """Microseconds of all script calls, with the commands inside; without script calls, of all commands."""
        inside = self.scripts
        return inside or sum(us for _, us in self.calls.values())

    @property
    def scripts(self) -> int:
        """Microseconds of all script calls."""
        return sum(us for name, (_, us) in self.calls.items() if name in _SCRIPTS)

    @property
    def script_calls(self) -> int:
        """Script calls."""
        return sum(n for name, (n, _) in self.calls.items() if name in _SCRIPTS)

    def commands(self) -> dict[str, int]:
        """Calls of every other command."""
        return {name: n for name, (n, _) in self.calls.items() if name not in _SCRIPTS}


@contextmanager
def spent(client: RawClient) -> Iterator[Spent]:
    """Counts the server's calls and time while the block runs."""
    result = Spent()
    client.call("CONFIG", "RESETSTAT")
    yield result
    for name, line in info(client, "commandstats").items():
        values = dict(part.split("=") for part in line.split(","))
        command = name.removeprefix("cmdstat_")
        if command not in _OWN:
            result.calls[command] = (int(values["calls"]), int(values["usec"]))
