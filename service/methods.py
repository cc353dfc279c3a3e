"""What the server has to know of a method before it is called: its kind, and the field of a batch.

Every method that is not named here is a call with one request and one answer.
"""

from __future__ import annotations

from enum import Enum


class Kind(Enum):
    """Kinds of call that have threads of their own. Refusals name them as `pool`."""

    UNARY = "unary"
    """One request, one answer, within `call_s_max`."""
    STREAM = "stream"
    """A stream of events that come in."""
    IMPORT = "import"
    EXPORT = "export"
    """A stream of members that go out."""
    WATCHER = "watcher"
    JOB = "job"
    """Work of minutes that an operator asks for."""
    PROBE = "probe"
    """Health and reflection, which answer whatever the others do."""


HEALTH_PREFIX = "/grpc.health.v1.Health/"
REFLECTION_METHODS = (
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
)
IMPORT_METHODS = ("/milepost.v1.IngestService/ImportEvents", "/milepost.v1.IngestService/ImportUsers")
STREAM_METHOD = "/milepost.v1.IngestService/StreamEvents"

_KINDS = {
    STREAM_METHOD: Kind.STREAM,
    **dict.fromkeys(IMPORT_METHODS, Kind.IMPORT),
    "/milepost.v1.AudienceService/ExportMembers": Kind.EXPORT,
    "/milepost.v1.AudienceService/WatchMembership": Kind.WATCHER,
    "/milepost.v1.AdminService/CreateBackup": Kind.JOB,
    "/milepost.v1.AdminService/GetStoreStats": Kind.JOB,
    "/milepost.v1.AdminService/VerifyStore": Kind.JOB,
    **dict.fromkeys(REFLECTION_METHODS, Kind.PROBE),
}

INGEST_METHODS = {
    "/milepost.v1.IngestService/IngestEvents": "events",
    STREAM_METHOD: "batch.events",
    "/milepost.v1.IngestService/UpsertUsers": "users",
    **dict.fromkeys(IMPORT_METHODS, "arrow"),
}
"""Methods that take batches, and the field that holds the batch."""

MADE_FOR = "made_for"
"""Attribute of a behaviour that refuses: whether it is for one call, or for one of a method that does not
exist, whose name is the caller's choice.
"""
ONE_CALL, UNKNOWN_METHOD = "one call", "unknown method"


def is_health(method: str) -> bool:
    """Whether a method, given by its full name, asks for health: that needs no API key."""
    return method.startswith(HEALTH_PREFIX)


def kind_of(method: str) -> Kind:
    """The kind of a method, by its full name."""
    return Kind.PROBE if is_health(method) else _KINDS.get(method, Kind.UNARY)


def named_methods() -> frozenset[str]:
    """The methods that this module names."""
    return frozenset(_KINDS) | frozenset(INGEST_METHODS)
