"""A trainer's signs of life, from a thread of its own: a step of half an hour is no death."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import weakref
from collections.abc import Callable

from broker.connections import Transport
from broker.errors import BrokerError
from broker.protocol import trainer
from broker.trainer.state import TrainerState

_log = logging.getLogger(__name__)

#: The pause between two signs of life, seconds. `open` gives the first.
BEAT_EVERY_S = 10.0


class Pulse:
    """The thread. It ends when the trainer is closed, and when nobody has the trainer any more.

    After another trainer has taken the run over, the server refuses its signs.

    Args:
        owner: the client that is alive.
        state: whose epoch the signs are given under.
        opened: opens the thread's own transport, before the first sign. It tries once: the next sign is soon.
    """

    def __init__(self, owner: object, state: TrainerState, opened: Callable[[], Transport]) -> None:
        self._state, self._opened = state, opened
        self._stop, self._process = threading.Event(), os.getpid()
        stop, process = self._stop, self._process

        def end(_: object) -> None:
            if os.getpid() == process:  # a forked child has no such thread, and its parent's may hold the event's lock
                stop.set()

        self._owner = weakref.ref(owner, end)
        self._transport: Transport | None = None
        self._thread = threading.Thread(target=self._run, name="broker-pulse", daemon=True)

    def start(self) -> None:
        """Starts it; the trainer has opened the run."""
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Stops the thread, and waits for it, at most the given seconds. In a forked child there is none to stop."""
        if os.getpid() != self._process:
            return
        self._stop.set()
        if (transport := self._transport) is not None:
            transport.close()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            while not self._stop.wait(BEAT_EVERY_S):
                try:
                    self._beat()
                # The server is away: the trainer's own calls say so. Or it is FENCED, perhaps only while a recovery of
                # this trainer has begun and its answer has not come: so that ends nothing.
                except BrokerError as error:
                    _log.debug("the sign of life of run %s was not given: %s", self._state.run, error)
        except Exception:  # noqa: BLE001 - a thread must not print a bare traceback into the trainer's output
            if not self._stop.is_set():
                _log.exception("the trainer of run %s gives no more signs of life", self._state.run)
        finally:
            if self._transport is not None:
                with contextlib.suppress(BrokerError):
                    self._transport.close()

    def _beat(self) -> None:
        transport = self._transport
        if transport is None:
            transport = self._transport = self._opened()
        if self._stop.is_set():  # `stop` may have come before there was a transport to close
            return
        call = trainer.beat(self._state.run, self._state.numbered.token, now=self._state.now)
        (answer,) = transport.execute([call])
        if isinstance(answer, BrokerError):
            raise answer
