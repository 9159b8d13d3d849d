"""Runs what is asynchronous."""

from __future__ import annotations

import asyncio
from typing import Any


def run_async_task(task: Any, *args: Any) -> Any:
    return asyncio.run(task(*args))
