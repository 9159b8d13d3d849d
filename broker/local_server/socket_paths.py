"""Paths of Unix sockets: in URLs, and those that are too long for `connect`."""

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from broker.errors import BadUrl

#: The longest path that `connect` and `bind` take on all systems, bytes (Linux: 107, macOS: 103).
LONGEST_SOCKET_PATH = 100

#: Characters of a path that mean something else in a URL; all others may stand there as they are.
_MEANT_OTHERWISE = frozenset("%?#")


def path_in_url(path: str) -> str:
    """A path as it stands in a URL `unix://`, which reads as that path again."""
    return "".join(quote(char) if char in _MEANT_OTHERWISE else char for char in path)


@contextmanager
def socket_path(path: str) -> Generator[str]:
    """A path of a Unix socket that is short enough for `connect`, even if the real path is not.

    Raises:
        BadUrl: the path is too long, and this system has no shorter one.
        OSError: the socket's directory does not exist.
    """
    if len(os.fsencode(path)) <= LONGEST_SOCKET_PATH:
        yield path
        return
    if not sys.platform.startswith("linux"):
        raise BadUrl(url=f"unix://{path_in_url(path)}", problem=f"the path is longer than {LONGEST_SOCKET_PATH} bytes")
    directory = os.open(Path(path).parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{Path(path).name}"
    finally:
        os.close(directory)
