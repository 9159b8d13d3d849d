"""Asks the person at the terminal before something is done that cannot be taken back."""

from __future__ import annotations

import sys

from broker.cli.failure import CommandFailure
from broker.cli.output import Output


def confirmed(output: Output, effect: str, *, word: str, word_is: str) -> bool:
    """Whether the person goes on.

    Args:
        output: the streams; the question goes to standard error.
        effect: what will be done, in sentences.
        word: what the person has to type.
        word_is: what to call the word in the question.

    Raises:
        CommandFailure: standard input is no terminal.
    """
    if not sys.stdin.isatty():
        raise CommandFailure(
            f"{effect}\nNothing was done: nobody can be asked, as standard input is no terminal. Give --yes."
        )
    output.note(effect)
    sys.stderr.write(f"Type {word_is} to go on: ")
    sys.stderr.flush()
    return sys.stdin.readline().strip() == word
