"""The stored form of a profile: the latest write of each field.

Fields set by one update share its time and arrival, so both are stored once per update. This halves a profile
of five fields. The form is canonical: equal profiles have equal bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import msgspec

from engine.values import Micros, Value

Write: TypeAlias = tuple[Micros, int, Value | None]
"""Time, arrival sequence and value (None = unset) of the latest write to a field."""
ProfileData: TypeAlias = dict[int, Write]
"""The writes by field."""

MEMORY_BYTES_PER_STORED_BYTE = 14
"""Memory of a profile per stored byte, measured on profiles of five fields."""

ProfileUpdate: TypeAlias = tuple[Micros, int, dict[int, Value | None]]
"""Time, arrival sequence and the values by field, in field order."""

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[list[ProfileUpdate]] = msgspec.msgpack.Decoder(list[ProfileUpdate])

encode_updates: Callable[[list[ProfileUpdate]], bytes] = _encoder.encode
"""The stored form of a profile. Updates are in order and not empty."""
decode_updates: Callable[[bytes], list[ProfileUpdate]] = _decoder.decode
"""The inverse of `encode_updates`."""


class ProfileCodec:
    """MessagePack of (time, arrival sequence, values by field), in this order."""

    def empty(self) -> ProfileData:
        return {}

    def decode(self, stored: memoryview) -> ProfileData:
        return {
            field: (time, sequence, value)
            for time, sequence, values in _decoder.decode(stored)
            for field, value in values.items()
        }

    def encode(self, value: ProfileData) -> bytes | None:
        updates: dict[tuple[Micros, int], dict[int, Value | None]] = {}
        for field, (time, sequence, written) in sorted(value.items()):
            updates.setdefault((time, sequence), {})[field] = written
        if not updates:
            return None
        return _encoder.encode([(*update, values) for update, values in sorted(updates.items())])

    def memory_bytes(self, stored_bytes: int) -> int:
        return MEMORY_BYTES_PER_STORED_BYTE * stored_bytes


PROFILE = ProfileCodec()
