"""Methods and outputs that this build does not implement.

Calling one of these answers UNIMPLEMENTED with `ErrorInfo` NOT_BUILT. The README's list is held against this
one by a test.
"""

from __future__ import annotations

METHODS_NOT_BUILT = frozenset(
    {
        "/milepost.v1.AccountService/CreateApiKey",
        "/milepost.v1.AccountService/ListApiKeys",
        "/milepost.v1.AccountService/DeleteApiKey",
    }
)

OUTPUT_KINDS_NOT_BUILT = frozenset({"webhook", "nats", "redis", "kafka"})
"""Fields of `Output`. CreateOutput fails in the same way for them."""
