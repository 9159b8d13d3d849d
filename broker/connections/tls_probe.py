"""Asks a server without TLS that failed with it, and the other way round: the URL may have the wrong scheme."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

from broker.connections.connection import Connection
from broker.connections.failures import CERTIFICATE, Failure
from broker.connections.tls import Tls
from broker.connections.url import Address

#: How long the server may take to answer, seconds.
ANSWERS_WITHIN_S = 0.5

#: Opens a connection with or without TLS, as the address says; raises Failure.
Opens = Callable[[Address], Awaitable[Connection]]


async def answers_plainly(opens: Opens, address: Address) -> bool:
    """Whether a server answers without TLS: such a server reads a TLS handshake as a command, and is silent."""
    try:
        connection = await opens(replace(address, tls=None))
    except Failure:
        return False
    try:
        await connection.exchange([("PING",)])
    except Failure:
        return False
    finally:
        connection.abort()
    return True


async def answers_with_tls(opens: Opens, address: Address) -> bool:
    """Whether a server answers with TLS: such a server closes a connection on which it reads a command."""
    try:
        connection = await opens(replace(address, tls=Tls.unverified()))
    except Failure as failure:
        return failure.kind is CERTIFICATE  # it demands one of the client
    connection.abort()
    return True
