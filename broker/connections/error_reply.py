"""Reads error replies: their code, redirections, and refusals of functions."""

import re
from dataclasses import dataclass

#: Codes of errors that are about the command itself, not about its effect.
_OF_COMMANDS = frozenset({"ERR", "NOPERM", "DENIED"})
UNKNOWN_COMMAND = re.compile(r"(unknown|unsupported) (sub)?command", re.IGNORECASE)
_FCALL = re.compile(r"\bfcall\b", re.IGNORECASE)
_READING = re.compile(r"\b(fcall|evalsha)_ro\b", re.IGNORECASE)
#: The place in a script where an error happened.
SCRIPT_LINE = re.compile(r'(user_script|user_function|\[string "<python>"\]):(\d+)')
#: The form in which servers before Redis 7 report an error of a command inside a script.
_INSIDE_SCRIPT = re.compile(r"-([A-Z]{3,}) [^\n]*")
#: The forms of NOPERM inside a script since Redis 7: the second in 7.0, the first in Valkey and later Redis.
_DENIED_INSIDE = re.compile(r"ACL failure in script|The user executing the script can't")


class ErrorReply(Exception):
    """An error reply: a value among the replies."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text
        self.code = text.partition(" ")[0]
        if self.code == "ERR" and (inside := _INSIDE_SCRIPT.search(text)):
            self.text, self.code = inside[0][1:], inside[1]
        elif self.code == "ERR" and (denied := _DENIED_INSIDE.search(text)):
            self.text, self.code = f"NOPERM {text[denied.start() :]}", "NOPERM"

    @property
    def words(self) -> str:
        """The text without a full stop at its end: the sentence goes on after it."""
        return self.text.removesuffix(".")


@dataclass(frozen=True, slots=True)
class Redirection:
    """The content of MOVED and ASK: another node of the cluster has the slot."""

    asking: bool
    slot: int
    host: str
    port: int


def lacks_function(error: ErrorReply) -> bool:
    """Whether a function call failed because the server does not have the library."""
    return "Function not found" in error.text


def refuses_reading_apart(error: ErrorReply) -> bool:
    """Whether a call failed because the server, or this user's rights, know no FCALL_RO or EVALSHA_RO."""
    return error.code in _OF_COMMANDS and _READING.search(error.text) is not None


def refuses_functions(error: ErrorReply) -> bool:
    """Whether a function call failed because the server, a proxy before it or this user's rights know no such command.

    A script's own errors never have these codes. An error that a fault in a script raises names a line of the script.
    """
    if error.code not in _OF_COMMANDS or SCRIPT_LINE.search(error.text):
        return False
    return _FCALL.search(error.text) is not None or UNKNOWN_COMMAND.search(error.text) is not None


def redirection(error: ErrorReply) -> Redirection | None:
    """Reads `MOVED 3999 127.0.0.1:6381` and `ASK ...`; an empty host stands for that of the node that answered."""
    if error.code not in ("MOVED", "ASK"):
        return None
    words = error.text.split(" ")
    host, _, port = words[2].rpartition(":")
    return Redirection(error.code == "ASK", int(words[1]), host, int(port))
