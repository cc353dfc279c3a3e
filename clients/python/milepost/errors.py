"""The exceptions of calls, as a tree.

MilepostError                  any refusal by the service; carries code, reason, metadata and violations
├── InvalidArgument            the request is invalid; `violations` names each invalid field
├── NotFound                   no such resource
├── AlreadyExists              the chosen id is taken
├── FailedPrecondition         the request is valid, but the state forbids it
├── Aborted                    the resource changed since it was read: read it again, then retry
├── OutOfRange                 a cursor that the service no longer keeps
├── ResourceExhausted          no credit left, or a limit reached
├── DeadlineExceeded           no answer in time; a write may or may not have been applied
├── Unavailable                no connection, or the service is stopping: safe to retry
│   └── TooStale               local answers are further behind than allowed; no call was made
├── Unimplemented              in the contract, but not in this build of the service
├── Unauthenticated            the call has no valid key
├── PermissionDenied           the key lacks the scope
├── Cancelled                  the caller cancelled
└── DataLoss                   a stored value failed its checksum
    └── SizeFailed             a size of an estimate could not be computed; `answer` has the others

`reason` is a name of `milepost.v1.errors_pb2.ErrorReason` without its prefix, stable for programs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2

from milepost.v1.audience_service_pb2 import EstimateAudienceResponse, WatchEnd

ERROR_DOMAIN = "milepost"
_STATUS_DETAILS_KEY = "grpc-status-details-bin"


@dataclass(frozen=True)
class Violation:
    """One fault in a request: the path of the field, as in the proto messages, and a description. Faults of
    rows of a batch have a `reason` each; others have that of the error.
    """

    field: str
    description: str
    reason: str = ""

    def __str__(self) -> str:
        """events[0].name: is required."""
        return f"{self.field}: {self.description}"


class MilepostError(Exception):
    """A refusal: `code`, `message` for people, `reason` and `metadata` for programs, invalid fields."""

    def __init__(
        self,
        code: grpc.StatusCode,
        message: str,
        *,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        violations: Sequence[Violation] = (),
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.reason = reason
        self.metadata = dict(metadata or {})
        self.violations = tuple(violations)
        self.retry_after_seconds = retry_after_seconds
        """When the service says to try again; None when it does not."""

    def __str__(self) -> str:
        """The message, then a line for each field at fault that the message does not name."""
        faults = [str(each) for each in self.violations]
        if len(faults) > 1 and self.message == _listed(self.violations):
            message = f"{len(faults)} fields are at fault"
        else:
            message = self.message
            faults = [each for each in faults if each not in message]
        return "\n  ".join([f"{self.reason or self.code.name}: {message}", *faults])

    def rename_fields(self, renamed: Callable[[str], str]) -> None:
        """Gives each field at fault the path that the caller knows it by, in the message too."""
        listed = _listed(self.violations)
        self.violations = tuple(replace(each, field=renamed(each.field)) for each in self.violations)
        if self.message == listed:
            self.message = _listed(self.violations)


class InvalidArgument(MilepostError):
    """The request is invalid in any state."""


class NotFound(MilepostError):
    """No such resource; `metadata["resource"]` is its name."""

    near = ""
    """The name of one that exists and may have been meant; the command line looks for it."""


class AlreadyExists(MilepostError):
    """The id is already taken."""


class FailedPrecondition(MilepostError):
    """The current state forbids the call. Message and metadata name the obstacle."""


class Aborted(MilepostError):
    """The etag does not match: the resource changed since it was read."""


class OutOfRange(MilepostError):
    """The cursor is older than the change log. `metadata["oldest_cursor"]` is the oldest valid one."""


class ResourceExhausted(MilepostError):
    """The credit of audiences or another limit is exhausted. `metadata["limit"]` is the limit."""


class DeadlineExceeded(MilepostError):
    """No answer within the timeout. A write may have succeeded: repeat it with the same request id."""


class Unavailable(MilepostError):
    """No connection, or the service is stopping."""


class TooStale(Unavailable):
    """The local state of an audience is further behind than `max_staleness`. No call was made."""


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


class SizeFailed(DataLoss):
    """A size of an estimate could not be computed. `answer` has the sizes that could."""

    def __init__(self, answer: EstimateAudienceResponse, failure: str) -> None:
        super().__init__(grpc.StatusCode.DATA_LOSS, f"a size could not be computed: {failure}")
        self.answer = answer


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

_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


def cancelled() -> Cancelled:
    """The exception for a call that this process has cancelled."""
    return Cancelled(grpc.StatusCode.CANCELLED, "the call was cancelled")


def ended() -> Unavailable:
    """The exception for a stream that the service ended early."""
    return Unavailable(grpc.StatusCode.UNAVAILABLE, "the service ended the stream")


def lost() -> Unavailable:
    """The exception for a call whose status the transport has lost."""
    message = "the service ended the call while requests were being sent, and its reason was lost"
    return Unavailable(grpc.StatusCode.UNAVAILABLE, message)


def too_stale(audience: str, seconds: float, seconds_max: float) -> TooStale:
    """The exception for an audience whose local state is too old or missing."""
    message = f"{audience} is not followed yet"
    if math.isfinite(seconds):
        message = f"{audience} is {seconds:.1f} s behind; answers may be {seconds_max:g} s old"
    return TooStale(grpc.StatusCode.UNAVAILABLE, message, metadata={"resource": audience})


def not_followed(audience: str, seconds: float, cause: MilepostError | None) -> DeadlineExceeded:
    """The exception for an audience that could not be followed in time, and the last error on the way."""
    message = f"{audience} is not followed after {seconds:g} s" + (f": {cause}" if cause else "")
    return DeadlineExceeded(grpc.StatusCode.DEADLINE_EXCEEDED, message, metadata={"resource": audience})


def not_found(resource: str) -> NotFound:
    """The exception for a resource that an answer says does not exist."""
    return NotFound(
        grpc.StatusCode.NOT_FOUND,
        f"{resource} does not exist",
        reason="RESOURCE_NOT_FOUND",
        metadata={"resource": resource},
    )


def from_watch_end(end: WatchEnd) -> MilepostError:
    """The exception that says why one of several audiences is no longer watched."""
    code = _CODES.get(end.code, grpc.StatusCode.UNKNOWN)
    return _BY_CODE.get(code, MilepostError)(code, end.message, reason=end.reason)


def from_rpc_error(error: grpc.RpcError) -> MilepostError:
    """The exception of this module for `error`, with its details unpacked."""
    code = error.code()
    made = _BY_CODE.get(code, MilepostError)
    return made(code, error.details() or code.name, **_details(error))


def _listed(violations: Sequence[Violation]) -> str:
    """The violations as the service lists them in a message."""
    return "; ".join(map(str, violations))


def _details(error: grpc.RpcError) -> dict[str, Any]:
    """The arguments of `MilepostError` that the details of a status hold."""
    found: dict[str, Any] = {"violations": []}
    # Pairs, of a class of its own in each of gRPC's two clients.
    trailing: Any = error.trailing_metadata() or ()
    for key, value in trailing:
        if key != _STATUS_DETAILS_KEY or not isinstance(value, bytes):
            continue
        for detail in status_pb2.Status.FromString(value).details:
            info = error_details_pb2.ErrorInfo()
            request = error_details_pb2.BadRequest()
            retry = error_details_pb2.RetryInfo()
            if detail.Unpack(info) and info.domain == ERROR_DOMAIN:
                found |= {"reason": info.reason, "metadata": dict(info.metadata)}
            elif detail.Unpack(request):
                found["violations"] += [
                    Violation(v.field, v.description, v.reason) for v in request.field_violations
                ]
            elif detail.Unpack(retry):
                found["retry_after_seconds"] = retry.retry_delay.ToTimedelta().total_seconds()
    return found
