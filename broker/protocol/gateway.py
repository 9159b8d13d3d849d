"""Script calls of gateways."""

from __future__ import annotations

from collections.abc import Sequence

from broker.protocol import keys
from broker.protocol.script_call import Argument, Now, ScriptCall


def note_ends(
    run: str, tasks: Sequence[str], *, before: tuple[tuple[Argument, ...], ...] = (), now: Now = ""
) -> ScriptCall[int]:
    """Writes down that at most 1000 tasks have ended, each once. Returns how many were new.

    Args:
        before: plain commands sent ahead of the script in the same pipeline.
    """
    return ScriptCall("note_ends", (keys.state(run),), (now, *tasks), int, before)
