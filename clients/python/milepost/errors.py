"""What a call can raise, drawn as a tree.

MilepostError                  any refusal by the service; carries code, reason, metadata and violations
├── InvalidArgument            the request itself is wrong; `violations` names each field at fault
├── NotFound                   no such resource
├── AlreadyExists              the chosen id is taken
├── FailedPrecondition         the request is fine, the state forbids it
├── Aborted                    the resource changed since it was read: read it again, then retry
├── OutOfRange                 a cursor that the service no longer keeps
├── ResourceExhausted          no credit left, or a limit reached
├── DeadlineExceeded           no answer in time; a write may or may not have been taken
├── Unavailable                no connection, or the service is stopping: safe to retry
├── Unimplemented              in the contract, not in that build of the service
├── Unauthenticated            no valid key came with the call
├── PermissionDenied           the key lacks the scope
├── Cancelled                  the caller cancelled
└── DataLoss                   a stored value failed its checksum

`reason` is a name of `milepost.v1.errors_pb2.ErrorReason` without its prefix, stable for programs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import grpc
from google.rpc import error_details_pb2, status_pb2

ERROR_DOMAIN = "milepost"
_STATUS_DETAILS_KEY = "grpc-status-details-bin"


@dataclass(frozen=True)
class Violation:
    """One fault in a request: the path of the field, as in the proto messages, and what is wrong with it."""

    field: str
    description: str


class MilepostError(Exception):
    """A refusal: `code`, `message` for people, `reason` and `metadata` for programs, fields at fault."""

    def __init__(
        self,
        code: grpc.StatusCode,
        message: str,
        *,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        violations: Sequence[Violation] = (),
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.reason = reason
        self.metadata = dict(metadata or {})
        self.violations = tuple(violations)

    def __str__(self) -> str:
        """Message, then one line for each field at fault."""
        lines = [f"{self.reason or self.code.name}: {self.message}"]
        lines += [f"  {violation.field}: {violation.description}" for violation in self.violations]
        return "\n".join(lines)


class InvalidArgument(MilepostError):
    """The request is invalid in any state."""


class NotFound(MilepostError):
    """No such resource; `metadata["resource"]` is its name."""


class AlreadyExists(MilepostError):
    """The id is already taken."""


class FailedPrecondition(MilepostError):
    """The current state forbids the call. Message and metadata name the obstacle."""


class Aborted(MilepostError):
    """The etag does not match: the resource changed since it was read."""


class OutOfRange(MilepostError):
    """The cursor is older than the change log. `metadata["oldest_cursor"]` is the oldest valid one."""


class ResourceExhausted(MilepostError):
    """The credit of audiences or another limit is used up. `metadata["limit"]` is the limit."""


class DeadlineExceeded(MilepostError):
    """No answer within the timeout. A write may have succeeded: repeat it with the same request id."""


class Unavailable(MilepostError):
    """No connection, or the service is stopping."""


class Unimplemented(MilepostError):
    """The service does not implement this method."""


class Unauthenticated(MilepostError):
    """The call has no valid API key."""


class PermissionDenied(MilepostError):
    """The API key lacks the scope in `metadata["scope"]`, or is another account's."""


class Cancelled(MilepostError):
    """The caller cancelled."""


class DataLoss(MilepostError):
    """A stored value failed its checksum."""


_BY_CODE: dict[grpc.StatusCode, type[MilepostError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgument,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExists,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPrecondition,
    grpc.StatusCode.ABORTED: Aborted,
    grpc.StatusCode.OUT_OF_RANGE: OutOfRange,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhausted,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.UNIMPLEMENTED: Unimplemented,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
    grpc.StatusCode.CANCELLED: Cancelled,
    grpc.StatusCode.DATA_LOSS: DataLoss,
}


def from_rpc_error(error: grpc.RpcError) -> MilepostError:
    """The exception of this module that says what `error` says, its details unpacked."""
    reason, metadata, violations = _details(error)
    code = error.code()
    made = _BY_CODE.get(code, MilepostError)
    return made(code, error.details() or code.name, reason=reason, metadata=metadata, violations=violations)


def _details(error: grpc.RpcError) -> tuple[str, dict[str, str], list[Violation]]:
    reason = ""
    metadata: dict[str, str] = {}
    violations: list[Violation] = []
    for entry in error.trailing_metadata():
        if entry.key != _STATUS_DETAILS_KEY or not isinstance(entry.value, bytes):
            continue
        for detail in status_pb2.Status.FromString(entry.value).details:
            info = error_details_pb2.ErrorInfo()
            request = error_details_pb2.BadRequest()
            if detail.Unpack(info) and info.domain == ERROR_DOMAIN:
                reason, metadata = info.reason, dict(info.metadata)
            elif detail.Unpack(request):
                violations += [Violation(v.field, v.description) for v in request.field_violations]
    return reason, metadata, violations
