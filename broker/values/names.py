"""The form of names of runs, tasks and workers, which become parts of keys, ids and events."""

from __future__ import annotations

import re
from typing import Final, Literal

from broker.errors import BadName
from broker.values.arguments import shown

#: Longest name, in characters.
MAX_NAME_CHARS: Final = 200

NameKind = Literal["run", "task", "worker"]

#: A regular expression of an allowed name, to be part of others.
NAME: Final = rf"[A-Za-z0-9._:/@+-]{{1,{MAX_NAME_CHARS}}}"
_ALLOWED: Final = re.compile(NAME)
_FORBIDDEN: Final = re.compile(r"[^A-Za-z0-9._:/@+-]")


def is_name(value: object) -> bool:
    """Whether `value` is an allowed name."""
    return isinstance(value, str) and _ALLOWED.fullmatch(value) is not None


#: The environment variable with the URL of the server, for clients and commands that are given none.
URL_VARIABLE = "BROKER_URL"


def check_name(kind: NameKind, value: object) -> str:
    """Returns `value` if it is an allowed name, 1 to 200 characters of `A-Za-z0-9._:/@+-`.

    Args:
        kind: run, task or worker, for the message.
        value: the name; values that are not `str` are refused.

    Raises:
        BadName: with fields kind, value (shortened) and problem.
    """
    if isinstance(value, str) and _ALLOWED.fullmatch(value):
        return value
    raise BadName(kind=kind, value=shown(value), problem=_problem(value))


def _problem(value: object) -> str:
    if not isinstance(value, str):
        return f"it is of type {type(value).__name__}, not str"
    if not value:
        return "it is empty"
    if len(value) > MAX_NAME_CHARS:
        return f"it is too long, {len(value)} characters where {MAX_NAME_CHARS} are allowed"
    forbidden = _FORBIDDEN.search(value)
    return f"it holds {forbidden[0]!a} at position {forbidden.start()}" if forbidden else "it is not allowed"
