"""The position of a watch of several audiences: where each of them goes on, as one text.

The text is opaque to callers, who may keep it for as long as they like. It names audiences by their ids, so
it says nothing about the account, and only the audiences of a request are looked up in it. A forged one
leads where a forged cursor leads: to the changes of an audience that the caller may watch anyway.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Annotated, TypeAlias

import msgspec
import xxhash

from engine.errors import InvalidInput

Reached: TypeAlias = tuple[str, int]
"""The epoch and the cursor that one audience goes on from."""

_CHECKSUM_BYTES = 8
POSITION_CHARACTERS_MAX = 24_000
"""Maximum length of a position: enough for `WATCHED_AUDIENCES_MAX` audiences with the longest ids."""
NOT_A_POSITION = "is not a position of a watch: send one as it came"

_Entries: TypeAlias = list[tuple[str, bytes, Annotated[int, msgspec.Meta(ge=0)]]]


def position_of(reached: Mapping[str, Reached]) -> str:
    """The text for where audiences have been followed to, by name."""
    entries: _Entries = [
        (audience.rpartition("/")[2], bytes.fromhex(epoch), cursor)
        for audience, (epoch, cursor) in reached.items()
    ]
    body = msgspec.msgpack.encode(entries)
    return base64.urlsafe_b64encode(xxhash.xxh3_64_digest(body) + body).decode().rstrip("=")


def read_position(text: str) -> dict[str, Reached]:
    """Where each audience goes on, by id. Raises InvalidInput."""
    try:
        if len(text) > POSITION_CHARACTERS_MAX:
            raise ValueError
        packed = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        digest, body = packed[:_CHECKSUM_BYTES], packed[_CHECKSUM_BYTES:]
        if xxhash.xxh3_64_digest(body) != digest:
            raise ValueError
        entries = msgspec.msgpack.decode(body, type=_Entries)
    except (ValueError, binascii.Error, msgspec.MsgspecError) as error:
        raise InvalidInput.one("position", NOT_A_POSITION) from error
    return {identifier: (epoch.hex(), cursor) for identifier, epoch, cursor in entries}
