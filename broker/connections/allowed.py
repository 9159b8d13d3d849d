"""Whether a client's user may call whole scripts: a script that is denied a command on its way has written a half."""

from collections.abc import Sequence
from typing import Any

from broker.connections.error_reply import ErrorReply
from broker.connections.failures import refusal
from broker.errors import BrokerError
from broker.protocol import keys, rights
from broker.protocol.script_call import ScriptCall


class Allowed:
    """The scripts that a client may call, by run, as far as one server was asked. Threads may share it."""

    def __init__(self) -> None:
        self._places: set[tuple[str, str]] = set()  # of a script and a run's state key

    def covers(self, calls: Sequence[ScriptCall[Any]]) -> bool:
        """Whether nothing is left to ask about these calls."""
        places = self._places
        for call in calls:  # noqa: SIM110 - a generator would cost more than all else here
            if (call.script, call.keys[0]) not in places:
                return False
        return True

    def forget(self) -> None:
        """The server or its users may be others now: asks again."""
        self._places.clear()

    def questions(
        self, calls: Sequence[ScriptCall[Any]], can_ask: bool
    ) -> list[tuple[tuple[str, ...], ScriptCall[Sequence[str]]]]:
        """What to ask before these calls: some scripts, and the script call that asks about them.

        Args:
            calls: the calls.
            can_ask: whether the server can be asked. If it cannot, nothing is asked about any script.
        """
        found: dict[tuple[str, str], tuple[tuple[str, ...], ScriptCall[Sequence[str]]]] = {}
        for call in calls:
            place = (call.script, call.keys[0])
            run = keys.run_of(call.keys[0])
            if place in self._places:
                continue
            if run is None or not can_ask or not rights.writes(call.script):
                self._places.add(place)
                continue
            scripts = rights.ENTRIES.get(call.script, (call.script,))
            found[place] = scripts, rights.missing(run, rights.needed(scripts))
        return list(found.values())

    def told(
        self, scripts: tuple[str, ...], state_key: str, answer: Sequence[str] | BrokerError, url: str
    ) -> BrokerError | None:
        """Reads the answer to a question. Returns the error of each call of these scripts, None: it may be made.

        A server that refuses the question may take the call, or refuse it as a whole.
        """
        missing = [] if isinstance(answer, BrokerError) else [line.split(" ", 1) for line in answer]
        if not missing:
            self._places.update((script, state_key) for script in scripts)
            return None
        how = missing[0][0]
        commands = [command for kind, command in missing if kind == how]
        named = ", ".join(f"'{command.lower()}'" for command in commands)
        words = "command" if len(commands) == 1 else "commands"
        text = (
            f"NOPERM the user has no permissions to run the {named} {words}"
            if how == "denied"
            else f"ERR unknown command {named}"
        )
        return refusal(ErrorReply(text), url, rights.needed(scripts)[commands[0]])
