"""The login of new connections: the URL's user and password, or those that a callable of the user gives."""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, cast

from broker.connections.connection import RedisCommand, login
from broker.connections.failures import NO_CREDENTIALS, Failure
from broker.errors import BadArgument, BrokerError

#: Returns a user and a password, and perhaps for how many seconds they are valid. A client of `broker.aio` may be
#: given a coroutine function.
Credentials = Callable[[], Any]

#: A connection is replaced when this part of the time has passed for which its login is valid.
_USED_FOR = 0.8
_EXPECTED = "a tuple of user and password, both str, and perhaps the seconds for which they are valid"


@dataclass(frozen=True, slots=True)
class Login:
    """What a new connection says of its client.

    Args:
        user: its name; "": the default user.
        password: of the user; "": none.
        name: of the connection, for `CLIENT LIST`; "": none.
        until: the moment, on the monotonic clock, at which the connection is to be replaced.
    """

    user: str
    password: str
    name: str = ""
    until: float = math.inf

    def commands(self, db: int) -> list[RedisCommand]:
        """The first commands of a connection; the reply of the last one does not matter if it is `CLIENT SETNAME`."""
        naming: list[RedisCommand] = [("CLIENT", "SETNAME", self.name)] if self.name else []
        return [*login(self.user, self.password, db), *naming]


async def asked_for(ask: Callable[[], Awaitable[Any]], name: str) -> Login:
    """The login that a callable gives now.

    Args:
        ask: calls it.
        name: of the connection.

    Raises:
        Failure: it raised an exception; this passes, as the service that gives tokens may be away.
        BadArgument: its answer is no user and password.
    """
    asked_at = time.monotonic()
    try:
        answer = await ask()
    except BrokerError:
        raise
    except Exception as error:
        raise Failure(NO_CREDENTIALS, f"`credentials` raised {_shown(error)}") from error
    if not isinstance(answer, tuple):
        raise BadArgument(argument="credentials", given=f"a {type(answer).__name__}", expected=_EXPECTED)
    parts = cast("tuple[Any, ...]", answer)
    user, password, valid_s = (*parts, None)[:3] if len(parts) in (2, 3) else (None, None, None)
    is_number = isinstance(valid_s, int | float) and not isinstance(valid_s, bool) and valid_s > 0
    if not (isinstance(user, str) and isinstance(password, str) and (valid_s is None or is_number)):
        kinds = ", ".join(type(part).__name__ for part in parts)  # their values are secrets
        raise BadArgument(argument="credentials", given=f"a tuple of ({kinds})", expected=_EXPECTED)
    until = math.inf if valid_s is None else asked_at + _USED_FOR * valid_s
    return Login(user, password, name, until)


def _shown(error: Exception) -> str:
    try:
        return repr(error)[:500]
    except Exception:  # noqa: BLE001 - the exception's class is the user's
        return type(error).__name__
