"""A broker for asynchronous reinforcement learning: leases, fencing, strict staleness and recovery, in Redis."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from broker.other_project import warn_of_other_project

if TYPE_CHECKING:
    from broker.clients.trainer import Trainer
    from broker.clients.worker import Worker
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
        RunFinished,
        RunHalted,
        SchemaMismatch,
        ServerUnavailable,
        TooBig,
        TooMany,
        Undone,
        UnsupportedServer,
        WaitTimeout,
        WeightsUnavailable,
        WorkerFault,
    )
    from broker.inspection.audit import Audit
    from broker.inspection.explanation import Explanation
    from broker.inspection.stats import Stats
    from broker.recovery.checkpoint import Checkpoint
    from broker.recovery.recover import RecoveryReport
    from broker.trainer.enqueued import Enqueued
    from broker.values.attempt import Attempt
    from broker.values.config import RunConfig
    from broker.values.evaluation_payload import Judged
    from broker.values.policy import Policy
    from broker.values.rollout import Rollout, Sample
    from broker.values.task import Task
    from broker.worker.session import Submitted

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
    "Judged",
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
    "RunFinished",
    "RunHalted",
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
    "WeightsUnavailable",
    "Worker",
    "WorkerFault",
    "__version__",
]

__version__ = "0.1.0"

# Most processes need a few of these names, and the modules behind them take longer to import than all they do next.
# So each is imported when it is first asked for.
_MODULES = {
    "broker.clients.trainer": ("Trainer",),
    "broker.clients.worker": ("Worker",),
    "broker.inspection.audit": ("Audit",),
    "broker.inspection.explanation": ("Explanation",),
    "broker.inspection.stats": ("Stats",),
    "broker.recovery.checkpoint": ("Checkpoint",),
    "broker.recovery.recover": ("RecoveryReport",),
    "broker.trainer.enqueued": ("Enqueued",),
    "broker.values.attempt": ("Attempt",),
    "broker.values.config": ("RunConfig",),
    "broker.values.evaluation_payload": ("Judged",),
    "broker.values.policy": ("Policy",),
    "broker.values.rollout": ("Rollout", "Sample"),
    "broker.values.task": ("Task",),
    "broker.worker.session": ("Submitted",),
}
_MODULE_OF = {name: module for module, defined in _MODULES.items() for name in defined}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_MODULE_OF.get(name, "broker.errors")), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


warn_of_other_project()
