"""Runs `broker` commands as a shell would."""

from __future__ import annotations

from tests.child import Child

RUN = "math-7b/eval"


def started(*argv: str, env: dict[str, str] | None = None) -> Child:
    """`broker ARGUMENTS` as a process of its own."""
    return Child("-m", "broker", *argv, env=env)
