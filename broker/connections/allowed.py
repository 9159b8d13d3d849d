"""Whether a client's user may call whole scripts: a script that is denied a command on its way has written a half."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from broker.connections.error_reply import ErrorReply
from broker.connections.failures import refusal
from broker.errors import BrokerError
from broker.protocol import keys, rights
from broker.protocol.script_call import ScriptCall

#: Makes script calls on the server that is asked; returns the value of each, or its error.
RunCalls = Callable[[Sequence[ScriptCall[Any]]], Awaitable[list[Any]]]
#: A script and a run's state key.
_Place = tuple[str, str]


class Allowed:
    """The scripts that a client may call, by run, as far as one server was asked. Threads may share it.

    Args:
        url: of the server, without password.

    Attributes:
        places: the scripts and runs about which nothing is left to ask.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self.places: set[_Place] = set()

    def forget(self) -> None:
        """The server or its users may be others now: asks again."""
        self.places.clear()

    async def ask(self, calls: Sequence[ScriptCall[Any]], run: RunCalls, *, can_ask: bool) -> dict[int, BrokerError]:
        """Asks about what is left to ask, in one round trip.

        Args:
            calls: which are about to be made.
            run: makes calls.
            can_ask: whether the server can be asked. If it cannot, all calls may be made.

        Returns:
            The error of each call that must not be made, by its place among the calls.
        """
        questions: dict[_Place, ScriptCall[Sequence[str]]] = {}
        for call in calls:
            place = (call.script, call.keys[0])
            if place in self.places:
                continue
            name = keys.run_of(call.keys[0])
            if can_ask and name is not None and rights.writes(call.script):
                questions[place] = rights.missing(name, rights.needed(_together(call.script)))
            else:
                self.places.add(place)
        answers = await run(list(questions.values())) if questions else []
        errors = {place: self._told(place, answer) for place, answer in zip(questions, answers, strict=True)}
        places = ((call.script, call.keys[0]) for call in calls)
        return {i: error for i, place in enumerate(places) if (error := errors.get(place)) is not None}

    def _told(self, place: _Place, answer: Sequence[str] | BrokerError) -> BrokerError | None:
        """Reads the answer to a question. Returns the error of the calls that it was about, None: they may be made.

        A server that refuses the question may take the calls, or refuse them as a whole.
        """
        script, state_key = place
        missing = [] if isinstance(answer, BrokerError) else [line.split(" ", 1) for line in answer]
        if not missing:
            self.places.update((other, state_key) for other in _together(script))
            return None
        kind = missing[0][0]
        commands = [command for other, command in missing if other == kind]
        named = ", ".join(f"'{command.lower()}'" for command in commands)
        words = "command" if len(commands) == 1 else "commands"
        denied = f"NOPERM the user has no permissions to run the {named} {words}"
        text = denied if kind == "denied" else f"ERR unknown command {named}"
        return refusal(ErrorReply(text), self._url, rights.needed(_together(script))[commands[0]])


def _together(script: str) -> tuple[str, ...]:
    """The scripts that are asked about together with this one."""
    return rights.ENTRIES.get(script, (script,))


async def run_others(calls: Sequence[ScriptCall[Any]], run: RunCalls, refused: dict[int, BrokerError]) -> list[Any]:
    """Makes the calls that are not refused. Returns the value or the error of each call."""
    left = [call for i, call in enumerate(calls) if i not in refused]
    answers = iter(await run(left) if left else ())
    return [refused[i] if i in refused else next(answers) for i in range(len(calls))]
