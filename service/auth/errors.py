"""Refusals of calls by their API key."""

from __future__ import annotations

from engine.errors import MilepostError
from engine.resources.records import Scope


class Unauthenticated(MilepostError):
    """The call has no valid API key. The message does not say whether the key ever existed."""

    default_reason = "UNAUTHENTICATED"


class ScopeMissing(MilepostError):
    """The key is valid, but lacks a scope; `metadata["scope"]` is the one that is needed."""

    default_reason = "SCOPE_MISSING"

    def __init__(self, scope: Scope, what: str) -> None:
        super().__init__(
            f"{what} needs an API key with SCOPE_{scope.name}", metadata={"scope": f"SCOPE_{scope.name}"}
        )


class RateLimited(MilepostError):
    """The key, or its account, makes too many calls. One passes again after `retry_after_s` seconds."""

    default_reason = "RATE_LIMITED"

    def __init__(self, message: str, *, resource: str, limit: int, retry_after_s: float) -> None:
        super().__init__(
            message, metadata={"resource": resource, "limit": str(limit)}, retry_after_s=retry_after_s
        )
