"""Maps engine errors to canonical status codes, in this file only.

Every error carries `google.rpc.ErrorInfo` (reason, domain `milepost`, metadata). Invalid fields add
`google.rpc.BadRequest` with one violation per fault, too many calls `google.rpc.RetryInfo`. The reasons are
those of `milepost.v1.ErrorReason`, without its prefix. Any other exception is a bug: it is logged with a
correlation id, and the caller gets only INTERNAL and that id.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Sequence
from typing import TypeAlias

import grpc
import structlog
from google.protobuf import any_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from engine.errors import InvalidInput, MilepostError, Violation

Metadata: TypeAlias = tuple[tuple[str, str | bytes], ...]

DOMAIN = "milepost"
INTERNAL_REASON = "INTERNAL"
CORRELATION_ID_BYTES = 8

TRAILER_BYTES_MAX = 8 * 1024
"""Maximum size of the trailers that clients accept with a status."""
TEXT_BYTES_MAX = 400
"""Longer texts are cut. A message is sent twice, once percent-encoded, where a byte takes up to three."""
VIOLATIONS_BYTES_MAX = 2_000
"""Violations beyond this are left out and counted."""
METADATA_BYTES_MAX = 1_000
ELLIPSIS = "…"
NANOS_PER_SECOND = 1_000_000_000

RETRY_PUSHBACK_KEY = "grpc-retry-pushback-ms"
"""Trailer that tells a transport how long to wait before it repeats a call."""

CODES = {
    "INVALID_ARGUMENT": grpc.StatusCode.INVALID_ARGUMENT,
    "INVALID_CRITERIA": grpc.StatusCode.INVALID_ARGUMENT,
    "INVALID_PAGE_TOKEN": grpc.StatusCode.INVALID_ARGUMENT,
    "INVALID_REVISION": grpc.StatusCode.INVALID_ARGUMENT,
    "BATCH_REFUSED": grpc.StatusCode.INVALID_ARGUMENT,
    "BATCH_TOO_LARGE": grpc.StatusCode.INVALID_ARGUMENT,
    "RESOURCE_NOT_FOUND": grpc.StatusCode.NOT_FOUND,
    "RESOURCE_ALREADY_EXISTS": grpc.StatusCode.ALREADY_EXISTS,
    "ETAG_MISMATCH": grpc.StatusCode.ABORTED,
    "MILESTONE_HAS_CHILDREN": grpc.StatusCode.FAILED_PRECONDITION,
    "AUDIENCE_IN_USE": grpc.StatusCode.FAILED_PRECONDITION,
    "AUDIENCE_TOO_DEEP": grpc.StatusCode.FAILED_PRECONDITION,
    "REMAINING_USERS_EXISTS": grpc.StatusCode.FAILED_PRECONDITION,
    "REMAINING_USERS_NEED_CRITERIA": grpc.StatusCode.FAILED_PRECONDITION,
    "JOURNEY_NOT_EMPTY": grpc.StatusCode.FAILED_PRECONDITION,
    "PARENT_IN_OTHER_JOURNEY": grpc.StatusCode.FAILED_PRECONDITION,
    "OUTPUT_IN_USE": grpc.StatusCode.FAILED_PRECONDITION,
    "CONNECTION_STATE": grpc.StatusCode.FAILED_PRECONDITION,
    "ALIAS_CYCLE": grpc.StatusCode.FAILED_PRECONDITION,
    "ALREADY_ALIASED": grpc.StatusCode.FAILED_PRECONDITION,
    "VERIFICATION_UNDER_WAY": grpc.StatusCode.FAILED_PRECONDITION,
    "OUTPUT_SENDS_NOTHING": grpc.StatusCode.FAILED_PRECONDITION,
    "SECRET_KEY_UNUSABLE": grpc.StatusCode.FAILED_PRECONDITION,
    "CLOCK_DIFFERS": grpc.StatusCode.FAILED_PRECONDITION,
    "INPUT_IN_USE": grpc.StatusCode.FAILED_PRECONDITION,
    "INPUT_NOT_EMPTY": grpc.StatusCode.FAILED_PRECONDITION,
    "WORKSPACE_NOT_EMPTY": grpc.StatusCode.FAILED_PRECONDITION,
    "ACCOUNT_NOT_EMPTY": grpc.StatusCode.FAILED_PRECONDITION,
    "BACKUP_DIRECTORY_UNUSABLE": grpc.StatusCode.FAILED_PRECONDITION,
    "NO_AUDIENCE_CREDIT": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "LIMIT_EXCEEDED": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "STORE_FULL": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "REVISION_NOT_REACHED": grpc.StatusCode.DEADLINE_EXCEEDED,
    "DEADLINE_EXCEEDED": grpc.StatusCode.DEADLINE_EXCEEDED,
    "CURSOR_EXPIRED": grpc.StatusCode.OUT_OF_RANGE,
    "STREAM_IDLE": grpc.StatusCode.ABORTED,
    "BACKUP_UNDER_WAY": grpc.StatusCode.ABORTED,
    "UNKNOWN_METHOD": grpc.StatusCode.UNIMPLEMENTED,
    "NOT_BUILT": grpc.StatusCode.UNIMPLEMENTED,
    "STORE_UNAVAILABLE": grpc.StatusCode.UNAVAILABLE,
    "DATA_LOSS": grpc.StatusCode.DATA_LOSS,
    "UNAUTHENTICATED": grpc.StatusCode.UNAUTHENTICATED,
    "SCOPE_MISSING": grpc.StatusCode.PERMISSION_DENIED,
    "RATE_LIMITED": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "OPERATOR_KEY_REQUIRED": grpc.StatusCode.FAILED_PRECONDITION,
}
"""The canonical code of every reason."""

_logger = structlog.get_logger("milepost.service")


def code_of(error: BaseException) -> grpc.StatusCode:
    """The canonical status code of the error."""
    reason = reason_of(error)
    return grpc.StatusCode.INTERNAL if reason is None else CODES[reason]


def reason_of(error: BaseException) -> str | None:
    """The reason in the status: the error's own or, when the contract does not have it (stores have more
    reasons, for operators), that of its class. None for a bug.
    """
    if not isinstance(error, MilepostError):
        return None
    if error.reason in CODES:
        return error.reason
    return error.default_reason if error.default_reason in CODES else None


def status_of(error: BaseException) -> status_pb2.Status:
    """The status of an error. A bug is logged with its traceback and the correlation id in the status."""
    reason = reason_of(error)
    if reason is None or not isinstance(error, MilepostError):
        return _defect(error)
    details = [_packed(_error_info(reason, error.metadata))]
    if error.retry_after_s is not None:
        details.append(_packed(_retry_info(error.retry_after_s)))
    if isinstance(error, InvalidInput):
        bad_request, left_out = _bad_request(error.violations)
        details.append(_packed(bad_request))
        left_out += error.left_out
        if left_out:
            metadata = {**error.metadata, "violations_left_out": str(left_out)}
            details[0] = _packed(_error_info(reason, metadata))
    return _status(CODES[reason], error.message, details)


def abort(context: grpc.ServicerContext, error: BaseException, *, retry_in_s: float | None = None) -> None:
    """Aborts the call with the error's status. Raises, as `context.abort` does.

    `retry_in_s` asks the caller to wait that long before it tries again. Transports that repeat a call do so,
    and the status carries it as `google.rpc.RetryInfo`.
    """
    answer, trailing_metadata = answer_of(error, retry_in_s)
    context.set_trailing_metadata(trailing_metadata)
    context.abort(answer.code, answer.details)


def answer_of(error: BaseException, retry_in_s: float | None) -> tuple[grpc.Status, Metadata]:
    """The status of an error as gRPC takes it, and the trailing metadata that go with it. See `abort`."""
    status = status_of(error)
    if retry_in_s is None:
        answer = rpc_status.to_status(status)
        return answer, tuple(answer.trailing_metadata)
    retry_in_ms = round(retry_in_s * 1_000)
    retry_info = error_details_pb2.RetryInfo()
    retry_info.retry_delay.FromMilliseconds(retry_in_ms)
    status.details.add().Pack(retry_info)
    answer = rpc_status.to_status(status)
    return answer, (*answer.trailing_metadata, (RETRY_PUSHBACK_KEY, str(retry_in_ms)))


def _defect(error: BaseException) -> status_pb2.Status:
    correlation_id = secrets.token_hex(CORRELATION_ID_BYTES)
    _logger.error("defect", correlation_id=correlation_id, exc_info=error)
    info = _error_info(INTERNAL_REASON, {"correlation_id": correlation_id})
    message = f"internal error; see the server's log for {correlation_id}"
    return _status(grpc.StatusCode.INTERNAL, message, [_packed(info)])


def _error_info(reason: str, metadata: dict[str, str]) -> error_details_pb2.ErrorInfo:
    # Two or three values, all short except lists of names.
    share = METADATA_BYTES_MAX // max(1, len(metadata))
    shortened = {key: _shortened(value, share) for key, value in metadata.items()}
    return error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN, metadata=shortened)


def _retry_info(after_s: float) -> error_details_pb2.RetryInfo:
    info = error_details_pb2.RetryInfo()
    info.retry_delay.FromNanoseconds(math.ceil(after_s * NANOS_PER_SECOND))
    return info


def _bad_request(violations: Sequence[Violation]) -> tuple[error_details_pb2.BadRequest, int]:
    """The first violations that fit, and the number left out."""
    bad_request = error_details_pb2.BadRequest()
    size_bytes = 0
    for index, violation in enumerate(violations):
        field, description = _shortened(violation.field), _shortened(violation.description)
        size_bytes += len(field.encode()) + len(description.encode()) + len(violation.reason)
        if index and size_bytes > VIOLATIONS_BYTES_MAX:
            return bad_request, len(violations) - index
        bad_request.field_violations.add(field=field, description=description, reason=violation.reason)
    return bad_request, 0


def _shortened(text: str, bytes_max: int = TEXT_BYTES_MAX) -> str:
    encoded = text.encode(errors="replace")
    if len(encoded) <= bytes_max:
        return text
    return encoded[: bytes_max - len(ELLIPSIS.encode())].decode(errors="ignore") + ELLIPSIS


def _packed(message: Message) -> any_pb2.Any:
    detail = any_pb2.Any()
    detail.Pack(message)
    return detail


def _status(code: grpc.StatusCode, message: str, details: list[any_pb2.Any]) -> status_pb2.Status:
    return status_pb2.Status(
        code=code_pb2.Code.Value(code.name), message=_shortened(message), details=details
    )
