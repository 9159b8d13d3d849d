"""The parts of a dispatcher that `attach` uses."""

import threading


class Bell(threading.Condition):
    """Counts how often it was rung."""

    rings = 0

    def notify_all(self) -> None:
        self.rings += 1
        super().notify_all()


class Dispatcher:
    """Waits as AReaL's does."""

    def __init__(self) -> None:
        self.condition = self._input_cv = Bell(threading.Lock())
