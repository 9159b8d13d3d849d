"""A process of `broker web` for tests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager

TOKEN = "sesame-%-opens"


@contextmanager
def web(url: str, *more: str, token: str = "") -> Generator[str]:
    """Yields its endpoint, and ends it by SIGTERM."""
    environment = {**os.environ, "BROKER_URL": url, "BROKER_WEB_TOKEN": token}
    command = [sys.executable, "-m", "broker", "web", "--port", "0", "--json", *more]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        line = process.stdout.readline()
        assert line, process.stderr.read()
        yield json.loads(line)["endpoint"]
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    assert process.returncode in (143, -signal.SIGTERM)
