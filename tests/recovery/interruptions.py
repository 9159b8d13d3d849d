"""Kills a trainer at a chosen call to its server, as a crash does: the trainer does nothing after that call."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from broker import Trainer
from broker.connections.sync import BlockingTransport
from broker.protocol.script_call import ScriptCall
from tests.conformance.clients import blocking, coroutine


class Killed(BaseException):
    """The process is dead. This is no Exception, so that no code handles it."""


#: How much of the fatal call reached the server: nothing; only the first script call of its pipeline; all of it, and its
#: answer was lost.
MOMENTS = ("before", "halfway", "after")


class MortalTransport:
    """Counts the calls of a trainer, and ends them at one.

    Args:
        io: the trainer's transport; within `standing_in` its calls go through this object.
        at: number of the fatal call, from 1; 0: never.
        moment: one of MOMENTS.
        instead: called before the fatal call, which then goes on, instead of the death.
        sigkill: really kill the process.
    """

    def __init__(
        self,
        io: BlockingTransport,
        at: int,
        moment: str = "before",
        instead: Callable[[], None] | None = None,
        sigkill: bool = False,
    ) -> None:
        self.calls = 0
        self._io, self._at, self._moment, self._instead, self._sigkill = io, at, moment, instead, sigkill
        self._execute, self._command = blocking(io.execute), blocking(io.command)

    def _die(self) -> None:
        if self._sigkill:
            os.kill(os.getpid(), signal.SIGKILL)
        raise Killed

    def _through(self, first: Callable[[], Any], whole: Callable[[], Any]) -> Any:
        self.calls += 1
        if self.calls != self._at:
            if self._at and self.calls > self._at and self._instead is None:
                raise Killed  # the dead do not call
            return whole()
        if self._instead is not None:
            self._instead()
            return whole()
        if self._moment == "halfway":
            first()
        elif self._moment == "after":
            whole()
        return self._die()

    def execute(self, script_calls: Sequence[ScriptCall[Any]], *_: Any) -> list[Any]:
        return self._through(lambda: self._execute(script_calls[:1]), lambda: self._execute(script_calls))

    def command(self, *args: Any) -> Any:
        return self._through(lambda: self._command(*args), lambda: self._command(*args))

    @contextmanager
    def standing_in(self) -> Generator[None]:
        """Within the block, the trainer's calls go through this object."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(self._io, "execute", coroutine(self.execute))
            patch.setattr(self._io, "command", coroutine(self.command))
            yield


@contextmanager
def kill(
    trainer: Trainer,
    at: int,
    moment: str = "before",
    *,
    instead: Callable[[], None] | None = None,
    sigkill: bool = False,
) -> Generator[MortalTransport]:
    """Within the block the trainer dies (or `instead` happens) at that call; with `at` 0 its calls are only counted."""
    mortal = MortalTransport(trainer._transport.io, at, moment, instead, sigkill)
    with mortal.standing_in():
        yield mortal
