"""The same clients for asyncio: every call that talks to the server is awaited."""

from broker.clients.aio_trainer import Trainer
from broker.clients.aio_worker import Worker

__all__ = ["Trainer", "Worker"]
