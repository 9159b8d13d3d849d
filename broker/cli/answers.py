"""Prints the answers of commands on many tasks, which get one word for each."""

from __future__ import annotations

from collections.abc import Mapping

from broker.cli.failure import EXIT_FINDING, EXIT_OK
from broker.cli.output import Output

_MEANING = {
    "unknown": "no such task in this run",
    "sealed": "it is in a sealed batch, which never changes",
    "consumed": "it has been trained on",
    "freed": "it has been trained on, and its record is freed",
    "freed_untrained": "its record is freed; the trainer takes it again by enqueue(tasks, again=True)",
    "dead": "it is dead",
    "rejected": "it is rejected",
}


def report(output: Output, answers: Mapping[str, str], *, wanted: str) -> int:
    """Prints the answers.

    Args:
        answers: the server's answer by task: `wanted`, the task's state, or `unknown`.
        wanted: the answer of success.

    Returns:
        0 if all answers are `wanted`, else 1.
    """
    refused = {task: answer for task, answer in answers.items() if answer != wanted}
    if output.as_json:
        output.json({wanted: [task for task in answers if task not in refused], "refused": refused})
    else:
        for task, answer in answers.items():
            output.line(
                f"{task}: {answer}"
                if answer == wanted
                else f"{task}: not {wanted}, {_MEANING.get(answer, f'it is {answer}')}"
            )
    return EXIT_FINDING if refused else EXIT_OK
