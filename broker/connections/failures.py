"""The failures between a client and its servers, and whether each passes: this one table decides.

Every failure becomes a `Failure` of one of these kinds: with plain servers, TLS, Unix sockets, Sentinel and Cluster,
in the synchronous client and in the one for asyncio. A call whose failure passes is sent again until the client's
patience ends; a permanent failure is raised at once. `docs/operations.md` has the same table for people.
"""

import errno
import os
import re
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from broker.connections.endpoint import Endpoint
from broker.connections.error_reply import SCRIPT_LINE, UNKNOWN_COMMAND, ErrorReply
from broker.errors import (
    AuthenticationFailed,
    BadUrl,
    BrokerError,
    CertificateRefused,
    ReadOnlyServer,
    ServerUnavailable,
    TooBig,
    UnsupportedServer,
)
from broker.errors.from_reply import from_reply
from broker.protocol import rights, scripts


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of failure.

    Attributes:
        seen: the words of the table for people.
        passes: whether the same bytes may succeed later or elsewhere.
        error: the error that is raised, at once or when the client's patience ends.
    """

    seen: str
    passes: bool
    error: type[BrokerError]


#: These pass: the server, the way to it, or its place in a failover or a cluster is not ready.
UNREACHABLE = Kind("nobody listens there, no route, no such host, no such socket", True, ServerUnavailable)
CLOSED = Kind("the connection is closed or reset, in the TLS handshake too", True, ServerUnavailable)
CUT = Kind(
    "a new connection is closed in the middle of a call: `client-output-buffer-limit` may be too small for the answer",
    True,
    ServerUnavailable,
)
SILENT = Kind("no answer for as long as the call may wait", True, ServerUnavailable)
GARBLED = Kind("an answer that is none, on a connection that worked", True, ServerUnavailable)
CROWDED = Kind("no place for another client (`maxclients`)", True, ServerUnavailable)
NOT_READY = Kind(
    "`LOADING`, `BUSY`, `MASTERDOWN`, `CLUSTERDOWN`, `TRYAGAIN`, `UNBLOCKED`; a server that forgets scripts at once",
    True,
    ServerUnavailable,
)
NO_WRITES = Kind("`READONLY`, `MISCONF`, `NOREPLICAS`", True, ReadOnlyServer)
NO_PRIMARY = Kind("Sentinel: no sentinel names a primary, or the one that it names is none", True, ServerUnavailable)
NO_SLOTS = Kind("Cluster: no node has a table of slots, or nobody serves the slot", True, ServerUnavailable)
MOVED = Kind("Cluster: `MOVED`, `ASK`, which are followed", True, ServerUnavailable)
NO_CREDENTIALS = Kind("the callable `credentials` raises an exception", True, AuthenticationFailed)
REPLACED = Kind("a refused login where `credentials` are given: they are asked for again", True, AuthenticationFailed)

#: These are permanent: a person has to mend something first.
LOGIN = Kind("`NOAUTH`, `WRONGPASS`, `DENIED`, any other refusal of the login", False, AuthenticationFailed)
RIGHTS = Kind("`NOPERM`, inside a script too", False, AuthenticationFailed)
CERTIFICATE = Kind(
    "a certificate that does not verify, or the server refuses ours or misses it", False, CertificateRefused
)
NO_TLS = Kind(
    "an answer that is not TLS, no protocol or cipher in common; a server that answers only with TLS, or only without",
    False,
    UnsupportedServer,
)
NOT_REDIS = Kind("an answer that no Redis gives, on a new connection", False, UnsupportedServer)
OTHER_MODE = Kind(
    "a URL of another kind: Sentinel or Cluster for a server that is neither, a plain one for a sentinel or a node",
    False,
    UnsupportedServer,
)
TOO_OLD = Kind("too old, or without a command that is needed", False, UnsupportedServer)
NO_SERVICE = Kind("Sentinel: no sentinel knows the service", False, BadUrl)
NO_DATABASE = Kind("no database of that number", False, BadUrl)
FILES = Kind(
    "files of certificates that cannot be read; a Unix socket that the system denies; a path that is no socket",
    False,
    BadUrl,
)
TOO_LARGE = Kind("the server refuses the bytes of a call (`Protocol error`) and closes", False, TooBig)

KINDS = (
    *(UNREACHABLE, CLOSED, CUT, SILENT, GARBLED, CROWDED, NOT_READY, NO_WRITES, NO_PRIMARY, NO_SLOTS, MOVED),
    *(NO_CREDENTIALS, REPLACED),
    *(LOGIN, RIGHTS, CERTIFICATE, NO_TLS, NOT_REDIS, OTHER_MODE, TOO_OLD, NO_SERVICE, NO_DATABASE, FILES, TOO_LARGE),
)

#: Error replies that are about the server or the connection, by code; all others answer the command itself.
_REPLIES = (
    dict.fromkeys(("BUSY", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "TRYAGAIN", "UNBLOCKED"), NOT_READY)
    | dict.fromkeys(("MISCONF", "NOREPLICAS", "READONLY"), NO_WRITES)
    | dict.fromkeys(("MOVED", "ASK"), OTHER_MODE)  # with redis+cluster:// they are followed before
    | dict.fromkeys(("DENIED", "NOAUTH", "WRONGPASS"), LOGIN)
    | {"NOPERM": RIGHTS}
)
_NAMED_COMMAND = re.compile(r"the ('[^']+'(, )?)+ commands?|access (a|one of the|at least one of the) key")

#: Parts of OpenSSL's reasons: the server refuses our certificate, or there is no protocol in common.
_OUR_CERTIFICATE = ("CERTIFICATE", "UNKNOWN_CA", "ACCESS_DENIED", "HANDSHAKE_FAILURE")
_NO_COMMON_TLS = (
    *("WRONG_VERSION", "UNKNOWN_PROTOCOL", "UNSUPPORTED_PROTOCOL", "PROTOCOL_VERSION", "HTTP_REQUEST", "HTTPS_PROXY"),
    *("UNEXPECTED_MESSAGE", "NO_PROTOCOLS", "NO_SHARED_CIPHER", "INSUFFICIENT_SECURITY", "RECORD_LAYER_FAILURE"),
    *("PACKET_LENGTH", "DECODE_ERROR", "UNRECOGNIZED_NAME"),
)
#: Errors of a path below a file, in a circle of links, or of a socket for datagrams.
_NO_SOCKET = frozenset({errno.ENOTDIR, errno.ELOOP, errno.EPROTOTYPE})
_ERRNO = re.compile(r"\[Errno (\d+)\]")


class Failure(Exception):
    """One try failed. Whether its commands were executed is unknown, unless the server says so.

    Args:
        kind: which failure.
        text: what happened, to what.
        stays: whether the next try may go to a known place without asking where the servers are.
        moved: whether much data was under way, so that the time that passed was not the server's silence.
    """

    def __init__(self, kind: Kind, text: str, *, stays: bool = False, moved: bool = False) -> None:
        super().__init__(text)
        self.kind, self.text, self.stays, self.moved = kind, text, stays, moved

    def at(self, endpoint: Endpoint | str) -> "Failure":
        """The same, with the name of the server in front."""
        return Failure(self.kind, f"{endpoint}: {self.text}", stays=self.stays, moved=self.moved)

    def told(self, url: str) -> BrokerError:
        """The error for a caller."""
        kind = self.kind.error
        if kind is ReadOnlyServer:
            return ReadOnlyServer(url=url, message=self.text)
        if kind is AuthenticationFailed:
            return AuthenticationFailed(url=url, error=self.text)
        if kind is ServerUnavailable:
            return ServerUnavailable(url=url, error=self.text)
        return kind(url=url, problem=self.text)


def nobody(what: str, failures: Sequence[tuple[Endpoint, Failure]]) -> Failure:
    """No one of several servers could be used: passes if one of the failures does, else is like the first of them."""
    kinds = [failure.kind for _, failure in failures]
    kind = next((kind for kind in kinds if kind.passes), kinds[0])
    return Failure(kind, f"{what} ({'; '.join(f'{server}: {failure}' for server, failure in failures)})")


# -- connections -------------------------------------------------------------------------------------------------------


def of_connecting(error: OSError | UnicodeError, *, path: str, is_tls: bool, timeout_s: float) -> Failure:
    """The failure of an error while connecting.

    Args:
        error: of the socket, the resolver or TLS.
        path: of the Unix socket; empty for other sockets.
        is_tls: whether the connection uses TLS.
        timeout_s: how long the wait was, seconds.
    """
    if path and isinstance(error, PermissionError):
        return Failure(FILES, "the system does not let this user connect to the socket: permission denied")
    if path and isinstance(error, OSError) and (error.errno in _NO_SOCKET or _is_no_socket(path)):
        return Failure(FILES, f"the path does not lead to a server's socket ({_reason(error)})")
    if isinstance(error, UnicodeError):
        return Failure(UNREACHABLE, "cannot connect (no host can have that name)")
    if not isinstance(error, ssl.SSLError | ConnectionError | TimeoutError) or isinstance(
        error, ConnectionRefusedError
    ):
        return Failure(UNREACHABLE, f"cannot connect ({_reason(error)})")
    failure = of_exchange(error, timeout_s)
    if not failure.kind.passes:
        return failure
    # A server without a place for another client (maxclients) cannot say so before the handshake has ended.
    in_handshake = " in the TLS handshake; a server that is full (maxclients) does so, too"
    hint = ": does it speak TLS?" if is_tls and failure.kind is SILENT else in_handshake if is_tls else ""
    return Failure(failure.kind, f"cannot connect ({failure}{hint})")


def _is_no_socket(path: str) -> bool:
    """Whether there is something else, such as a file: `connect` only says that nobody listens."""
    there = Path(path)
    return there.exists() and not there.is_socket()


def of_exchange(error: OSError, timeout_s: float, *, moved: bool = False) -> Failure:
    """The failure of an error on an open connection.

    Args:
        error: of the socket or TLS.
        timeout_s: for how many seconds the server was silent, in a time-out.
        moved: whether much had been sent, or part of the answer had come.
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        return Failure(CERTIFICATE, f"the server's certificate does not verify: {error.verify_message}")
    if isinstance(error, TimeoutError):
        return Failure(SILENT, f"no answer for {timeout_s:.3g} s", moved=moved)
    if isinstance(error, ssl.SSLError):
        return _of_tls(error)
    if str(error) in ("", "Connection lost"):  # asyncio's way to say it
        return closed(0)
    return Failure(CLOSED, _reason(error), moved=moved)


def _of_tls(error: ssl.SSLError) -> Failure:
    reason = error.reason or ""
    words = reason.lower().replace("_", " ") or str(error)
    # An end without a reason, or an alert without consequence, is a connection that broke.
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError | ssl.SSLSyscallError):
        return closed(0)
    if "ALERT" in reason and any(part in reason for part in _OUR_CERTIFICATE):
        return Failure(
            CERTIFICATE,
            f"the server refuses this client: {words} (options ssl_certfile and ssl_keyfile name a certificate)",
        )
    if any(part in reason for part in _NO_COMMON_TLS):
        return Failure(NO_TLS, f"no TLS there: {words}")
    return Failure(CLOSED, f"TLS: {words}")


def speaks_plainly() -> Failure:
    """The server is silent in the TLS handshake, and answers without TLS."""
    return Failure(NO_TLS, "no TLS there: the server answers without it; begin the URL with `redis`, not `rediss`")


def speaks_tls() -> Failure:
    """The server closes a connection without TLS at the first command, and answers with TLS."""
    return Failure(NO_TLS, "the server speaks TLS; begin the URL with `rediss`, not `redis`")


def closed(size: int) -> Failure:
    """The server closed the connection after some bytes of an answer."""
    return Failure(
        CLOSED,
        f"the server closed the connection{f' after {size} bytes of its answer' if size else ''}",
        moved=size > 0,
    )


def cut(failure: Failure) -> Failure:
    """The server closed a new connection in the middle of its first call.

    An old connection may have been closed long before the call. A new one was closed because of the call, or the
    server ended at that moment.
    """
    if failure.kind is not CLOSED:
        return failure
    text = (
        f"{failure}, in the middle of a call on a new connection: its log may say why; if it does so each time, its "
        "client-output-buffer-limit may be too small for the answer"
    )
    return Failure(CUT, text, moved=failure.moved)


def _reason(error: OSError) -> str:
    """An error in words, without the addresses that some messages repeat."""
    if error.errno and not isinstance(error, socket.gaierror):
        return os.strerror(error.errno)
    if error.strerror is None and (number := _ERRNO.search(str(error))):  # asyncio's error for several addresses
        return os.strerror(int(number[1]))
    return error.strerror or str(error)


# -- replies -----------------------------------------------------------------------------------------------------------


def of_reply(error: ErrorReply) -> Failure | None:
    """The failure of an error reply that is about the server or the connection; None if it is about the command."""
    kind = _REPLIES.get(error.code)
    if kind is OTHER_MODE:
        return Failure(OTHER_MODE, "it is a node of a cluster; connect with redis+cluster://")
    if kind is not None:
        return Failure(kind, error.words)
    if error.code == "ERR" and "DB index is out of range" in error.text:
        return Failure(NO_DATABASE, "the server has no database of that number; its setting `databases` says how many")
    if error.code == "ERR" and UNKNOWN_COMMAND.search(error.text):
        return Failure(TOO_OLD, error.words)
    return None


def of_login(error: ErrorReply) -> Failure:
    """The failure of an error reply to AUTH: access was refused, in whatever words, unless the failure passes."""
    failure = of_reply(error)
    return failure if failure is not None and failure.kind.passes else Failure(LOGIN, error.words)


def passes(error: ErrorReply) -> bool:
    """Whether the same bytes may succeed later or elsewhere. False for MOVED, ASK and NOSCRIPT, which need more."""
    kind = _REPLIES.get(error.code)
    return kind is not None and kind.passes


def refusal(error: ErrorReply, url: str, script: str = "", shebang: bool = True) -> BrokerError:
    """The exception for an error reply.

    Args:
        error: the reply.
        url: of the server, without password.
        script: the script that was called, if one was.
        shebang: whether the script was loaded with its `#!lua` line.
    """
    if (failure := of_reply(error)) is not None:
        if failure.kind is RIGHTS and script:
            # Redis up to 7.0 does not say which command.
            named = _NAMED_COMMAND.search(error.text)
            may_be = "" if named else f", which calls {', '.join(rights.commands(script))}"
            failure = Failure(RIGHTS, f"{error.words} (script {script}{may_be})")
        return failure.told(url)
    if script and (line := SCRIPT_LINE.search(error.text)):
        source = scripts.library() if line[1] == "user_function" else scripts.load(script, shebang)
        where = source.origin(int(line[2]))
        return BrokerError(error.code, message=error.text, script=script, where=where)
    return from_reply(error.text)
