"""Connections: URLs to transports, with retries, script loading, Sentinel and Cluster.

The only part of the broker that has sockets.
"""

from broker.connections.aio import AsyncTransport
from broker.connections.server import ServerInfo
from broker.connections.sync import Transport

__all__ = ["AsyncTransport", "ServerInfo", "Transport", "open_async_transport", "open_transport"]

#: How long a server may be silent before the connection counts as lost, seconds.
DEFAULT_TIMEOUT_S = 10.0
#: For how long after its first try a call may be tried again, seconds: longer than a failover takes.
DEFAULT_RETRY_FOR_S = 30.0
#: How long a client that is closed, or told to end, may try to give its attempts back, seconds: Docker kills 10 s
#: after SIGTERM. When the server is away, the attempts go to others as their leases run out.
END_WITHIN_S = 5.0
#: How much of that time a renewal that is under way gets, seconds.
HEARTBEAT_ENDS_WITHIN_S = 1.0


def open_transport(
    url: str, *, timeout_s: float = DEFAULT_TIMEOUT_S, retry_for_s: float = DEFAULT_RETRY_FOR_S
) -> Transport:
    """A transport to the server that a URL names; connects at the first call (`embedded://` starts its server now).

    Args:
        url: see `broker.connections.url`.
        timeout_s: how long a server may be silent before the connection counts as lost, seconds.
        retry_for_s: for how long after the first try another may begin, seconds; a silent server costs up to
            `timeout_s` more.

    Raises:
        BadUrl: the URL cannot be understood.
        ServerNotStarted: the embedded server did not start.
    """
    return Transport(url, timeout_s, retry_for_s)


def open_async_transport(
    url: str, *, timeout_s: float = DEFAULT_TIMEOUT_S, retry_for_s: float = DEFAULT_RETRY_FOR_S
) -> AsyncTransport:
    """As `open_transport`, for asyncio: one transport for each event loop."""
    return AsyncTransport(url, timeout_s, retry_for_s)
