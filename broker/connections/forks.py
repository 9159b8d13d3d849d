"""Tells transports in a forked child that their connections are the parent's."""

import os
import weakref
from typing import Protocol


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
