"""Where temporary files are made, and words for where that is nowhere."""

from __future__ import annotations

import os
import tempfile


def temporary_directory(longest: int | None = None) -> str:
    """The directory for temporary files, as `tempfile` chooses it.

    Args:
        longest: of its path, in bytes, for a socket's has to be short; where it is longer, /tmp is taken.

    Raises:
        OSError: none can be written; the message says what to do.
    """
    advice = "set the environment variable TMPDIR to a directory that can be written"
    try:
        chosen = tempfile.gettempdir()
    except FileNotFoundError as error:
        raise FileNotFoundError(error.errno, f"there is no place for temporary files: {advice}") from error
    if longest is None or len(os.fsencode(chosen)) <= longest:
        return chosen
    if not os.access("/tmp", os.W_OK | os.X_OK):  # noqa: S108 - who makes something in it gives that a name of its own
        raise PermissionError(
            "the directory for temporary files has too long a path for a socket, and /tmp cannot be written: "
            f"{advice}, of at most {longest} bytes"
        )
    return "/tmp"  # noqa: S108


def what_failed(error: OSError) -> str:
    """What the system refused, and of which file where one is known."""
    refused = error.strerror or str(error)
    return f"{os.fsdecode(error.filename)}: {refused}" if isinstance(error.filename, (str, bytes)) else refused
