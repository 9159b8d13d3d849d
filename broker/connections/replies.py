"""Reads replies: which error means what, and which ones pass when the same bytes are sent again."""

import re
from dataclasses import dataclass

from redis.exceptions import ResponseError

from broker import scripts
from broker.error_replies import from_reply
from broker.errors import AuthenticationFailed, BadUrl, BrokerError, ReadOnlyServer, UnsupportedServer

#: The server, or its place in a failover or a cluster, is not ready yet: the same bytes are sent again.
_PASSING = frozenset(
    {
        "BUSY",  # another client's script runs too long
        "CLUSTERDOWN",
        "LOADING",
        "MASTERDOWN",
        "MISCONF",  # cannot write its snapshot or its log: refuses writes until it can
        "NOREPLICAS",  # min-replicas-to-write
        "READONLY",
        "TRYAGAIN",
        "UNBLOCKED",  # a blocking call while the server became a replica
    }
)
#: Those of them that mean that the server takes no writes.
_NO_WRITES = frozenset({"MISCONF", "NOREPLICAS", "READONLY"})
_REFUSED = frozenset({"NOAUTH", "WRONGPASS", "NOPERM", "DENIED"})
#: Codes of errors that are about a command and not about what it would have done.
_OF_COMMANDS = frozenset({"ERR", "NOPERM", "DENIED"})
_UNKNOWN_COMMAND = re.compile(r"(unknown|unsupported) (sub)?command", re.IGNORECASE)
_FCALL = re.compile(r"\bfcall\b", re.IGNORECASE)
#: How servers before Redis 7 report an error of a command inside a script.
_INSIDE_SCRIPT = re.compile(r"-([A-Z]{3,}) [^\n]*")
_SCRIPT_LINE = re.compile(r'(user_script|user_function|\[string "<python>"\]):(\d+)')


class ReplyError(ResponseError):
    """An error reply. redis-py raises it; our links make it a value among the replies."""

    def __init__(self, text: str) -> None:
        Exception.__init__(self, text)
        self.text = text
        self.code = text.partition(" ")[0]
        if self.code == "ERR" and (inside := _INSIDE_SCRIPT.search(text)):
            self.text, self.code = inside[0][1:], inside[1]


@dataclass(frozen=True, slots=True)
class Redirection:
    """What MOVED and ASK say: another node of the cluster has the slot."""

    asking: bool
    slot: int
    host: str
    port: int


def passes(error: ReplyError) -> bool:
    """Whether the same bytes may succeed later or elsewhere (MOVED, ASK and NOSCRIPT need more than that)."""
    return error.code in _PASSING


def lacks_function(error: ReplyError) -> bool:
    """Whether a function call failed because the server does not have the library."""
    return "Function not found" in error.text


def refuses_functions(error: ReplyError) -> bool:
    """Whether a function call failed because the server, a proxy before it or this user's rights know no such command.

    What a script says itself never has these codes, but for a fault in it: its words may be of anything.
    """
    if error.code not in _OF_COMMANDS or _SCRIPT_LINE.search(error.text):
        return False
    return _FCALL.search(error.text) is not None or _UNKNOWN_COMMAND.search(error.text) is not None


def redirection(error: ReplyError) -> Redirection | None:
    """Reads `MOVED 3999 127.0.0.1:6381` and `ASK ...`; the host is "" where it is that of the node that answered."""
    if error.code not in ("MOVED", "ASK"):
        return None
    words = error.text.split(" ")
    host, _, port = words[2].rpartition(":")
    return Redirection(error.code == "ASK", int(words[1]), host, int(port))


def refusal(error: ReplyError, url: str, script: str = "", shebang: bool = True) -> BrokerError:
    """The exception for an error reply that does not pass.

    Args:
        error: the reply.
        url: of the server, without password.
        script: the script that was called, if one was.
        shebang: whether it was loaded with its `#!lua` line.
    """
    code = error.code
    if code in _NO_WRITES:
        return ReadOnlyServer(url=url, message=error.text)
    if code in _REFUSED:
        return AuthenticationFailed(url=url, error=error.text)
    if code in ("MOVED", "ASK"):
        return UnsupportedServer(url=url, problem="it is a node of a cluster; connect with redis+cluster://")
    if code == "ERR" and "DB index is out of range" in error.text:
        return BadUrl(
            url=url, problem="the server has no database of that number; its setting `databases` says how many"
        )
    if code == "ERR" and _UNKNOWN_COMMAND.search(error.text):
        return UnsupportedServer(url=url, problem=error.text)
    if script and (line := _SCRIPT_LINE.search(error.text)):
        source = scripts.library() if line[1] == "user_function" else scripts.load(script, shebang)
        where = source.origin(int(line[2]))
        return BrokerError(code, message=error.text, script=script, where=where)
    return from_reply(error.text)
