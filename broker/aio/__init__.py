"""The same clients for asyncio: every call that talks to the server is awaited."""

from broker.aio.trainer import Trainer
from broker.aio.worker import Worker

__all__ = ["Trainer", "Worker"]
