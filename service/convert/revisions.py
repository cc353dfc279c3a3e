"""Revision tokens: a store and its revision, opaque to callers.

A token of another store, for example from before a restore into a new one, is refused rather than compared.
"""

from __future__ import annotations

import re

from engine.errors import InvalidInput

_TOKEN = re.compile(r"([0-9a-zA-Z_-]+)\.([0-9a-f]{1,16})")


def revision_token(store_id: str, revision: int) -> str:
    """The token for a revision of the store."""
    return f"{store_id}.{revision:x}"


def revision_of(token: str, store_id: str, *, field: str = "at_least") -> int:
    """The revision of a token. An empty token gives 0, which every state satisfies.

    Raises InvalidInput with reason INVALID_REVISION for a token that this store has not given.
    """
    if not token:
        return 0
    match = _TOKEN.fullmatch(token)
    if match is None or match[1] != store_id:
        raise InvalidInput.one(field, "is not a revision of this store", reason="INVALID_REVISION")
    return int(match[2], 16)
