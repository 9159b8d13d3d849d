"""The commands of script calls, and the outcomes in their replies."""

from collections.abc import Sequence
from typing import Any

from broker.connections.connection import RedisCommand
from broker.connections.error_reply import ErrorReply
from broker.connections.failures import refusal
from broker.connections.pool import Server
from broker.protocol import scripts
from broker.protocol.keys import NEVER_THERE
from broker.protocol.script_call import ScriptCall


def commands_of(server: Server, calls: Sequence[ScriptCall[Any]]) -> tuple[list[RedisCommand], list[str]]:
    """The commands of some script calls for one server, and the names of the scripts that the first of them load."""
    commands: list[RedisCommand] = []
    in_cluster = server.info is not None and server.info.cluster
    if server.calls_functions:
        function_of = scripts.library().function
        for call in calls:
            commands.extend(call.before)
            keys = _keys_in_cluster(call) if in_cluster else call.keys
            commands.append(("FCALL", function_of(call.script), len(keys), *keys, *call.args))
        return commands, []
    shebang = server.supports_shebang
    loads = list(dict.fromkeys(op.script for op in calls if op.script not in server.known))
    commands.extend(("SCRIPT", "LOAD", scripts.load(name, shebang).source) for name in loads)
    for call in calls:
        sha1 = scripts.load(call.script, shebang).sha1
        commands.extend(call.before)
        keys = _keys_in_cluster(call) if in_cluster else call.keys
        commands.append(("EVALSHA", sha1, len(keys), *keys, *call.args))
    return commands, loads


def _keys_in_cluster(call: ScriptCall[Any]) -> tuple[str, ...]:
    """The keys of a call, and one key that never exists.

    While a hash slot moves to another node, each of the two nodes has some of a run's keys. A script fails at the
    first key that its node lacks, after it has written others. A call that names several keys, of which one is
    missing, is refused as a whole (`TRYAGAIN`), and is sent again until the slot has moved.
    """
    return (*call.keys, call.keys[0] + NEVER_THERE)


def outcomes_of(calls: Sequence[ScriptCall[Any]], replies: Sequence[Any], server: Server, url: str) -> list[Any]:
    """Reads the replies of script calls: an error of a command sent ahead of a script is the error of its call."""
    outcomes: list[Any] = []
    start = 0
    for call in calls:
        end = start + len(call.before) + 1
        error = next((reply for reply in replies[start:end] if isinstance(reply, ErrorReply)), None)
        if error is not None:
            outcomes.append(refusal(error, url, call.script, server.supports_shebang))
        else:
            outcomes.append(call.outcome(replies[end - 1]))
        start = end
    return outcomes
