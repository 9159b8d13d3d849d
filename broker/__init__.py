"""A broker for asynchronous reinforcement learning: leases, fencing, strict staleness and recovery, in Redis."""

from broker.errors import BrokerError, Reject
from broker.models import Attempt, Policy, Rollout, RunConfig, Sample, Stats, Task
from broker.session import Submitted
from broker.trainer import Trainer
from broker.trainer_core import Enqueued
from broker.worker import Worker

__all__ = [
    "Attempt",
    "BrokerError",
    "Enqueued",
    "Policy",
    "Reject",
    "Rollout",
    "RunConfig",
    "Sample",
    "Stats",
    "Submitted",
    "Task",
    "Trainer",
    "Worker",
    "__version__",
]

__version__ = "0.1.0"
