"""Every error that the broker raises: one base, one class for each code.

An error has fields. Its sentence for people is made of the fields when `str` asks for it.

Imports nothing of the broker.
"""

from broker.errors.base import BrokerError
from broker.errors.kinds import (
    BY_CODE,
    AuthenticationFailed,
    BadArgument,
    BadName,
    BadUrl,
    CertificateRefused,
    CheckpointError,
    ClientClosed,
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
    NotSendable,
    OldCall,
    OldRequest,
    OutOfMemory,
    ReadOnlyServer,
    Recovering,
    Rewound,
    RunFinished,
    RunHalted,
    SchemaMismatch,
    ServerNotStarted,
    ServerUnavailable,
    TooBig,
    TooMany,
    Undone,
    UnsupportedServer,
    WaitTimeout,
)
from broker.errors.raised_by_handlers import Reject, WorkerFault

__all__ = [
    "BY_CODE",
    "AuthenticationFailed",
    "BadArgument",
    "BadName",
    "BadUrl",
    "BrokerError",
    "CertificateRefused",
    "CheckpointError",
    "ClientClosed",
    "CodecError",
    "ConfigMismatch",
    "DigestMismatch",
    "Early",
    "Exhausted",
    "Fenced",
    "Gone",
    "HandlersLost",
    "NoResult",
    "NoRun",
    "NoSession",
    "NotSendable",
    "OldCall",
    "OldRequest",
    "OutOfMemory",
    "ReadOnlyServer",
    "Recovering",
    "Reject",
    "Rewound",
    "RunFinished",
    "RunHalted",
    "SchemaMismatch",
    "ServerNotStarted",
    "ServerUnavailable",
    "TooBig",
    "TooMany",
    "Undone",
    "UnsupportedServer",
    "WaitTimeout",
    "WorkerFault",
]

# Tracebacks show the module that users import the error from.
for _kind in (BrokerError, *BY_CODE.values()):
    _kind.__module__ = __name__
