"""How a caller is told how far long work is."""

from collections.abc import Callable

#: Called with what is done and about how much there is in all, both in tasks.
Progress = Callable[[int, int], object]
