"""Connections: URLs to transports, with retries, script loading, Sentinel and Cluster.

The only part of the broker that has sockets.
"""

from broker.connections.aio import AsyncTransport
from broker.connections.credentials import Credentials
from broker.connections.server_info import ServerInfo
from broker.connections.sync import Transport
from broker.connections.url import url_or_variable
from broker.errors import BadArgument
from broker.values.arguments import seconds_of

__all__ = [
    "AsyncTransport",
    "Credentials",
    "ServerInfo",
    "Transport",
    "open_async_transport",
    "open_transport",
    "url_or_variable",
]

#: How long a server may be silent before the connection counts as lost, seconds.
DEFAULT_TIMEOUT_S = 10.0
#: For how long after its first try a call may be tried again, seconds: longer than a failover takes.
DEFAULT_RETRY_FOR_S = 30.0
#: The longest time-out, seconds.
_MOST_TIMEOUT_S = 86_400.0
#: How long a client that is closed, or told to end, may try to give its attempts back, seconds: Docker kills 10 s
#: after SIGTERM. When the server is away, the attempts go to others as their leases run out.
END_WITHIN_S = 5.0
#: How much of that time a renewal that is under way gets, seconds.
HEARTBEAT_ENDS_WITHIN_S = 1.0


def open_transport(
    url: str,
    *,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    retry_for_s: float = DEFAULT_RETRY_FOR_S,
    credentials: Credentials | None = None,
    name: str = "broker",
) -> Transport:
    """A transport to the server that a URL names; connects at the first call (`embedded://` starts its server now).

    Args:
        url: see `broker.connections.url`.
        timeout_s: how long a server may be silent before the connection counts as lost, seconds.
        retry_for_s: for how long after the first try another may begin, seconds; a silent server costs up to
            `timeout_s` more.
        credentials: called at each new connection; returns user and password. None: the URL's are used.
        name: of the connections, for `CLIENT LIST`.

    Raises:
        BadUrl: the URL cannot be understood.
        BadArgument: a number of seconds is none, or out of its range.
        ServerNotStarted: the embedded server did not start.
    """
    return Transport(url, *_checked(timeout_s, retry_for_s), credentials, name)


def open_async_transport(
    url: str,
    *,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    retry_for_s: float = DEFAULT_RETRY_FOR_S,
    credentials: Credentials | None = None,
    name: str = "broker",
) -> AsyncTransport:
    """As `open_transport`, for asyncio: one transport for each event loop."""
    return AsyncTransport(url, *_checked(timeout_s, retry_for_s), credentials, name)


def _checked(timeout_s: float, retry_for_s: float) -> tuple[float, float]:
    silent_s, patient_s = seconds_of("timeout_s", timeout_s), seconds_of("retry_for_s", retry_for_s)
    if silent_s is None or not 0 < silent_s <= _MOST_TIMEOUT_S:
        raise BadArgument(argument="timeout_s", given=timeout_s, expected="more than 0 and at most 86400 seconds")
    if patient_s is None or patient_s < 0:
        raise BadArgument(argument="retry_for_s", given=retry_for_s, expected="at least 0 seconds; infinity: for ever")
    return silent_s, patient_s
