"""The command `broker`, also as `python -m broker`: quiet about Ctrl-C from its first import on."""

import sys
from typing import NoReturn

#: As `broker.cli.failure.EXIT_INTERRUPTED`, which may not be loaded yet.
_EXIT_INTERRUPTED = 130


def entry_point() -> NoReturn:
    """Runs the command with the arguments of the process and leaves it."""
    try:
        from broker.other_project import warn_of_other_project

        warn_of_other_project()  # again: where the other project came last, it has `broker/__init__.py`
        from broker.cli import main  # loading takes longer than a quick Ctrl-C

        main.entry_point()
    except KeyboardInterrupt:
        sys.exit(_EXIT_INTERRUPTED)


if __name__ == "__main__":
    entry_point()
