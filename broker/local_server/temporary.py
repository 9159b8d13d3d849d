"""The directory for temporary files, and the error when there is none."""

from __future__ import annotations

import os
import tempfile


def temporary_directory(longest: int | None = None) -> str:
    """The directory for temporary files, as `tempfile` chooses it.

    Args:
        longest: the longest path, in bytes, as a socket's has to be short; instead of a longer one, /tmp is taken.

    Raises:
        OSError: no directory can be written; the message says what to do.
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
    """What the system refused, and for which file if it is known."""
    refused = error.strerror or str(error)
    return f"{os.fsdecode(error.filename)}: {refused}" if isinstance(error.filename, (str, bytes)) else refused
