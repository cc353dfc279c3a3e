"""The errors that callers see, drawn as a tree.

MilepostError
├── InvalidInput            the request is invalid; carries one violation per fault
├── NotFound                a named resource does not exist (for this account)
├── AlreadyExists           a chosen id is taken
├── FailedPrecondition      the request is valid, but the state forbids it
├── EtagMismatch            the resource changed since the caller read it
├── LimitExceeded           a credit, quota or size limit is reached
├── RevisionNotReached      the deadline passed before the requested revision was reached
├── DeadlineExceeded        the deadline passed before the answer was ready
├── Aborted                 the call was ended before it was done; the caller may make it again
├── CursorExpired           the cursor is older than the change log, or of another epoch
├── Unsupported             this build does not implement it
├── StoreUnavailable        the store is closing or owned by another process
├── DataLoss                a stored value failed its checksum
└── Defect                  the service itself has a fault

Each has an UPPER_SNAKE `reason`, stable for callers to switch on, and string `metadata`. The service maps
classes to canonical gRPC codes in one place; nothing here knows about gRPC.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from engine.limits import VIOLATIONS_MAX


class Violation(msgspec.Struct, frozen=True):
    """One fault in a request: the path of the field, as in documents, and a description. `reason` is
    UPPER_SNAKE and stable where the request's own reason does not say it: of rows of a batch.
    """

    field: str
    description: str
    reason: str = ""


class Warning(msgspec.Struct, frozen=True):
    """A possible mistake that does not fail the call, such as an unknown event name. `reason` is UPPER_SNAKE
    and stable. engine/criteria/warnings.py makes them all.
    """

    field: str
    description: str
    reason: str = ""


class Violations:
    """Collects faults: keeps the first `VIOLATIONS_MAX` and counts the others."""

    def __init__(self, violations: Iterable[Violation] = ()) -> None:
        self.listed: list[Violation] = []
        self.left_out = 0
        self.extend(violations)

    def __bool__(self) -> bool:
        return bool(self.listed)

    def add(self, violation: Violation) -> None:
        """Adds one fault."""
        if len(self.listed) < VIOLATIONS_MAX:
            self.listed.append(violation)
        else:
            self.left_out += 1

    def extend(self, violations: Iterable[Violation] | Violations) -> None:
        """Adds each fault, and those that another collection counts."""
        if isinstance(violations, Violations):
            self.left_out += violations.left_out
            violations = violations.listed
        for violation in violations:
            self.add(violation)


class MilepostError(Exception):
    """Base of all engine errors: a message for people, a `reason` and `metadata` for programs."""

    default_reason = "ENGINE_ERROR"

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or self.default_reason
        self.metadata: dict[str, str] = dict(metadata or {})
        self.retry_after_s = retry_after_s
        """When the same call may pass, in seconds; None = not by waiting."""


class InvalidInput(MilepostError):
    """The request is invalid in any state. `violations` lists its first faults, and `left_out` counts those
    beyond `VIOLATIONS_MAX`.
    """

    default_reason = "INVALID_ARGUMENT"

    def __init__(
        self,
        violations: Iterable[Violation] | Violations,
        *,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        found = Violations()
        found.extend(violations)
        super().__init__(
            "; ".join(f"{v.field}: {v.description}" for v in found.listed), reason=reason, metadata=metadata
        )
        self.violations = tuple(found.listed)
        self.left_out = found.left_out

    def below(self, field: str) -> InvalidInput:
        """The same faults, of a message that is in this field of another one."""
        found = Violations(msgspec.structs.replace(v, field=f"{field}.{v.field}") for v in self.violations)
        found.left_out = self.left_out
        return InvalidInput(found, reason=self.reason, metadata=self.metadata)

    @classmethod
    def one(cls, field: str, description: str, *, reason: str = "") -> InvalidInput:
        """The common case of a single fault."""
        return cls([Violation(field, description)], reason=reason)


class NotFound(MilepostError):
    """No such resource; `metadata["resource"]` is its name."""

    default_reason = "RESOURCE_NOT_FOUND"

    def __init__(self, resource: str) -> None:
        super().__init__(f"{resource} does not exist", metadata={"resource": resource})


class AlreadyExists(MilepostError):
    """The id is already taken."""

    default_reason = "RESOURCE_ALREADY_EXISTS"

    def __init__(self, resource: str) -> None:
        super().__init__(f"{resource} already exists", metadata={"resource": resource})


class FailedPrecondition(MilepostError):
    """The current state forbids the call. The message names the obstacle."""

    default_reason = "FAILED_PRECONDITION"


class EtagMismatch(MilepostError):
    """The resource changed since the caller read it."""

    default_reason = "ETAG_MISMATCH"


class LimitExceeded(MilepostError):
    """A credit, quota or size limit is reached. Nothing was changed."""

    default_reason = "LIMIT_EXCEEDED"


class RevisionNotReached(MilepostError):
    """The store did not reach the requested revision before the deadline."""

    default_reason = "REVISION_NOT_REACHED"


class DeadlineExceeded(MilepostError):
    """The deadline passed before the answer was ready."""

    default_reason = "DEADLINE_EXCEEDED"


class Aborted(MilepostError):
    """The call was ended before it was done, for a reason that passes: the caller may make it again."""

    default_reason = "ABORTED"


class CursorExpired(MilepostError):
    """The cursor is older than the change log. `metadata["oldest_cursor"]` is the oldest valid one, or
    `oldest_time` for an instant.
    """

    default_reason = "CURSOR_EXPIRED"


class Unsupported(MilepostError):
    """This build does not implement the method or feature."""

    default_reason = "NOT_BUILT"


class StoreUnavailable(MilepostError):
    """The store is closing, or another process owns it."""

    default_reason = "STORE_UNAVAILABLE"


class DataLoss(MilepostError):
    """A stored value failed its checksum; `metadata["key_family"]` names the family of keys it belongs to."""

    default_reason = "DATA_LOSS"


class Defect(MilepostError):
    """An error that nobody expected, of which work of the service ended. The message has its kind alone: its
    text may have values of users. It is the cause.
    """

    default_reason = "DEFECT"

    def __init__(self, cause: Exception) -> None:
        super().__init__(f"a fault of the service: {type(cause).__name__}; its log has more")
        self.__cause__ = cause


def failure_of(error: Exception) -> MilepostError:
    """The error as one that callers may see: itself, or a Defect."""
    return error if isinstance(error, MilepostError) else Defect(error)
