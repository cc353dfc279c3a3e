"""The order of members: by partition, then by the bytes of their ids, as the cluster sorts its rows."""

from __future__ import annotations

from engine.errors import InvalidInput
from engine.values import PARTITION_COUNT, partition_of


def encode_after(user_id: str) -> str:
    """A position in the order of members, just behind a user, as an opaque string."""
    return f"{partition_of(user_id):03x}:{user_id}"


def decode_after(after: str) -> str:
    """The user of a position; "" is the start. Raises InvalidInput for a string that is no position."""
    if not after:
        return ""
    partition, _, user_id = after.partition(":")
    if not user_id or partition != f"{partition_of(user_id):03x}":
        raise InvalidInput.one("after", "not an `after` of this backend")
    return user_id


def partitions_after(after: str) -> range:
    """The partitions of a position and behind it."""
    user_id = decode_after(after)
    return range(partition_of(user_id) if user_id else 0, PARTITION_COUNT)
