"""Reading the plain parts of replies."""

from __future__ import annotations

from typing import Any


def text(value: Any) -> str:
    """A word of a reply as text."""
    return value.decode() if isinstance(value, bytes) else str(value)


def words(value: Any) -> list[str]:
    """An answer of space-separated words."""
    return text(value).split()


def texts(values: Any) -> list[str]:
    """A list of words."""
    return [text(value) for value in values]
