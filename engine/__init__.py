"""The Milepost rule engine: criteria, plans, journeys and audiences. It knows neither gRPC nor the network.

    from engine import Engine
    from engine.backends.registry import open_backend

    engine = Engine(open_backend("local:data"))

`__all__` names what an embedding program needs first; the rest is imported from its own module.
"""

from __future__ import annotations

from engine.backends.base import Backend, EventRecord, Record, UserRecord
from engine.clock import Clock
from engine.engine import Engine
from engine.errors import (
    AlreadyExists,
    DataLoss,
    FailedPrecondition,
    InvalidInput,
    LimitExceeded,
    MilepostError,
    NotFound,
    StoreUnavailable,
    Violation,
)
from engine.limits import DEFAULT_LIMITS, Limits
from engine.values import Kind, Micros, Value

__all__ = [
    "DEFAULT_LIMITS",
    "AlreadyExists",
    "Backend",
    "Clock",
    "DataLoss",
    "Engine",
    "EventRecord",
    "FailedPrecondition",
    "InvalidInput",
    "Kind",
    "LimitExceeded",
    "Limits",
    "Micros",
    "MilepostError",
    "NotFound",
    "Record",
    "StoreUnavailable",
    "UserRecord",
    "Value",
    "Violation",
]
