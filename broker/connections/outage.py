"""The two warnings of an outage: that a client tries again, and that the server answers again."""

import logging

from broker.connections.forks import Locked

_log = logging.getLogger(__name__)


class Outage(Locked):
    """One client's outage: logged once, however many of its threads and tasks meet it, and so is its end."""

    def __init__(self) -> None:
        super().__init__()
        self._calls = 0  # that have met it and are tried again
        self._told = False  # that it began was logged, that it is over was not

    def after_fork(self) -> None:
        """As `Forked.after_fork`: the parent's calls do not go on in the child."""
        super().after_fork()
        self._calls, self._told = 0, False

    def met(self, message: str, *args: object) -> None:
        """A call is tried again; until it calls `left` it counts. Logs the message if no other call has."""
        with self._lock:
            self._calls += 1
            told, self._told = self._told, True
        if not told:
            _log.warning(message, *args)

    def over(self, message: str, *args: object) -> None:
        """A call that met it has its answer. Logs the message if no other call has."""
        with self._lock:
            told, self._told = self._told, False
        if told:
            _log.warning(message, *args)

    def left(self) -> None:
        """A call that met it has ended, with an answer or without."""
        with self._lock:
            self._calls -= 1
            self._told = self._told and self._calls > 0
