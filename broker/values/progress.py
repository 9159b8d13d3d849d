"""The type of `progress` arguments."""

from collections.abc import Callable

#: Called with the number of tasks dealt with so far, and about how many there are in all.
Progress = Callable[[int, int], object]
