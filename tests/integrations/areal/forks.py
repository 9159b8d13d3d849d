"""The side of a program that `Lives` begins again and again."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable


def in_lives(main: Callable[..., None]) -> None:
    """Calls it with the program's words: once, or in a fork for each line of standard input."""
    if not os.environ.get("BROKER_TEST_LIVES"):
        return main(*sys.argv[1:])
    for _ in sys.stdin:
        if (pid := os.fork()) == 0:
            code = 1
            try:
                main(*sys.argv[1:])
                code = 0
            except BaseException:  # noqa: BLE001 - said, and then the fork ends whatever it was
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                os._exit(code)
        _say("life", pid)
        os.waitpid(pid, 0)
        _say("dead", pid)
    return None


def _say(word: str, pid: int) -> None:
    sys.stdout.write("\n@" + json.dumps({word: pid}) + "\n")
    sys.stdout.flush()
