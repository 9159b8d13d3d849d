"""Loggers under roots of their own: what another logger says is not shown."""

from __future__ import annotations

import logging

lines: list[str] = []


class _Kept(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        lines.append(record.getMessage())


def getLogger(name: str) -> logging.Logger:  # noqa: N802 - its name
    logger = logging.Logger(name)  # noqa: LOG001 - a root of its own is the point
    logger.addHandler(_Kept())
    return logger
