"""A broker for asynchronous reinforcement learning: leases, fencing, strict staleness and recovery, in Redis."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from broker.arrival import Enqueued
    from broker.checkpoint import Checkpoint
    from broker.errors import (
        AuthenticationFailed,
        BadArgument,
        BadName,
        BadUrl,
        BrokerError,
        CheckpointError,
        CodecError,
        ConfigMismatch,
        DigestMismatch,
        Early,
        Exhausted,
        Fenced,
        Gone,
        HandlersLost,
        NoResult,
        NoRun,
        NoSession,
        OldCall,
        OldRequest,
        OutOfMemory,
        ReadOnlyServer,
        Recovering,
        Reject,
        Rewound,
        SchemaMismatch,
        ServerUnavailable,
        TooBig,
        TooMany,
        Undone,
        UnsupportedServer,
        WaitTimeout,
    )
    from broker.models import Attempt, Policy, Rollout, RunConfig, Sample, Stats, Task
    from broker.recovery import RecoveryReport
    from broker.reports import Audit, Explanation
    from broker.session import Submitted
    from broker.trainer import Trainer
    from broker.worker import Worker

__all__ = [
    "Attempt",
    "Audit",
    "AuthenticationFailed",
    "BadArgument",
    "BadName",
    "BadUrl",
    "BrokerError",
    "Checkpoint",
    "CheckpointError",
    "CodecError",
    "ConfigMismatch",
    "DigestMismatch",
    "Early",
    "Enqueued",
    "Exhausted",
    "Explanation",
    "Fenced",
    "Gone",
    "HandlersLost",
    "NoResult",
    "NoRun",
    "NoSession",
    "OldCall",
    "OldRequest",
    "OutOfMemory",
    "Policy",
    "ReadOnlyServer",
    "Recovering",
    "RecoveryReport",
    "Reject",
    "Rewound",
    "Rollout",
    "RunConfig",
    "Sample",
    "SchemaMismatch",
    "ServerUnavailable",
    "Stats",
    "Submitted",
    "Task",
    "TooBig",
    "TooMany",
    "Trainer",
    "Undone",
    "UnsupportedServer",
    "WaitTimeout",
    "Worker",
    "__version__",
]

__version__ = "0.1.0"

# Most processes need a few of these names, and the modules behind them take longer to import than all they do next:
# each is imported when it is first asked for.
_MODULES = {
    "broker.checkpoint": ("Checkpoint",),
    "broker.models": ("Attempt", "Policy", "Rollout", "RunConfig", "Sample", "Stats", "Task"),
    "broker.recovery": ("RecoveryReport",),
    "broker.reports": ("Audit", "Explanation"),
    "broker.session": ("Submitted",),
    "broker.trainer": ("Trainer",),
    "broker.arrival": ("Enqueued",),
    "broker.worker": ("Worker",),
}
_MODULE_OF = {name: module for module, defined in _MODULES.items() for name in defined}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_MODULE_OF.get(name, "broker.errors")), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
