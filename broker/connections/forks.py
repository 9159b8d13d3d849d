"""Tells objects in a forked child that connections and locks are the parent's."""

import os
import threading
import weakref
from typing import Protocol

#: Why a client refuses a call in a forked child.
FORKED = (
    "this client was opened before a fork, and its connections and numbers belong to that process: open another one "
    "in the child"
)


class Forked(Protocol):
    """An object that must be told of a fork."""

    def after_fork(self) -> None:
        """Called in the child, before its other code runs."""
        ...


#: The objects to tell, as long as they exist.
told: "weakref.WeakSet[Forked]" = weakref.WeakSet()


def _tell() -> None:
    for each in list(told):
        each.after_fork()


os.register_at_fork(after_in_child=_tell)


class Locked:
    """An object that several threads use, with a lock of its own in each process.

    Another thread of the parent may hold the lock while a process forks. The child does not have that thread, so it
    would wait for ever.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        told.add(self)

    def after_fork(self) -> None:
        """As `Forked.after_fork`: makes the lock anew."""
        self._lock = threading.Lock()
