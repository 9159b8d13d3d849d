"""Tells transports that this process is a forked child: their connections are the parent's."""

import os
import weakref
from typing import Protocol


class Forked(Protocol):
    """What has to know."""

    def after_fork(self) -> None:
        """Called in the child, before anything else of it runs."""
        ...


#: All that have to know, as long as somebody has them.
told: "weakref.WeakSet[Forked]" = weakref.WeakSet()


def _tell() -> None:
    for each in list(told):
        each.after_fork()


os.register_at_fork(after_in_child=_tell)
