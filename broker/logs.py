"""Log lines as JSON: what the commands write with `--log-format json`, and a formatter for programs of your own."""

from __future__ import annotations

import json
import logging
import os
import sys
from datetime import UTC, datetime
from typing import Any, Final

__all__ = ["FORMATS", "LOG_FORMAT_VARIABLE", "JsonFormatter", "set_up"]

#: The environment variable for the format of the commands' log.
LOG_FORMAT_VARIABLE: Final = "BROKER_LOG_FORMAT"
#: The formats of the commands' log.
FORMATS: Final = ("text", "json")

#: What every record has; the other attributes are fields that a log call named with `extra`.
_OF_EVERY_RECORD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """Makes one line of JSON of each record.

    Each line has `time` (UTC, with milliseconds), `level`, `logger`, `message`, `process` (its id) and `thread` (its
    name). A record of an exception also has `error`, the exception's class, and `traceback`. Then the fields that the
    log call named with `extra`: of the broker's own calls `run`, `worker`, `task`, `attempt`, `step`, and others that
    docs/monitoring.md lists.

    Example:
        ```python
        handler = logging.StreamHandler()
        handler.setFormatter(broker.logs.JsonFormatter())
        logging.basicConfig(handlers=[handler], level=logging.INFO)
        ```
    """

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record, without its end."""
        told: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "process": record.process,
            "thread": record.threadName,
        }
        if record.exc_info and record.exc_info[0] is not None:
            told["error"] = f"{record.exc_info[0].__module__}.{record.exc_info[0].__qualname__}"
            told["traceback"] = self.formatException(record.exc_info)
        for name, value in vars(record).items():
            if name not in _OF_EVERY_RECORD and name not in told:
                told[name] = value
        return json.dumps(told, default=repr)


def set_up(log_format: str, level: int = logging.WARNING) -> None:
    """Sends the log to standard error, unless the process has set up its logging already.

    Args:
        log_format: `text`, or `json` for one object a line.
        level: the lowest level that is written.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else logging.Formatter("%(levelname)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level=level)


def json_line(logger: str, level: int, message: str) -> str:
    """What `JsonFormatter` makes of a message, whether or not that level is written."""
    return JsonFormatter().format(logging.makeLogRecord({**_record(logger, level), "msg": message}))


def _record(logger: str, level: int) -> dict[str, Any]:
    return {"name": logger, "levelno": level, "levelname": logging.getLevelName(level), "process": os.getpid()}
