"""How many messages the lists and maps of a request hold, counted on its bytes before it is parsed.

Parsing builds an object for each element, while the interpreter runs nothing else: two million empty ones fit
into 4 MB, and take 180 MB and a sixth of a second. So the count comes first, when a message is long enough to
exceed the limit at all.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from engine.limits import MESSAGE_ELEMENTS_MAX

ELEMENT_BYTES_MIN = 2
"""A tag and a length."""
NESTED_MAX = 100
"""Levels of messages that the parser takes."""
VARINT_BITS_MAX = 63

_DELIMITED = 2
"""The wire type of texts and messages."""
_MORE = 0x80


class _Malformed(ValueError):
    """The bytes are not those of a message."""


class _Part(NamedTuple):
    """What a field of messages holds."""

    is_repeated: bool
    inside: _Parts


_Parts = dict[int, _Part]
"""By tag."""


class WireElements:
    """Counts the elements of one kind of message."""

    def __init__(self, kind: type[Message]) -> None:
        known: dict[Any, _Parts] = {}
        self._parts = _parts_of(kind.DESCRIPTOR, known)
        repeated = {tag for parts in known.values() for tag, part in parts.items() if part.is_repeated}
        self._tags = [_encoded(tag) for tag in sorted(repeated)]

    def are_too_many(self, data: bytes, elements_max: int = MESSAGE_ELEMENTS_MAX) -> bool:
        """Whether the message has more elements than that. What cannot be parsed may have any number."""
        if len(data) <= elements_max * ELEMENT_BYTES_MIN:
            return False
        # The tags occur in texts too: an upper bound, which nearly every message stays below.
        if sum(map(data.count, self._tags)) <= elements_max:
            return False
        try:
            return _Count(data, elements_max).left_after(0, len(data), self._parts, NESTED_MAX) < 0
        except (IndexError, _Malformed):
            # The parser refuses it at the same place.
            return False


class _Count:
    def __init__(self, data: bytes, elements_max: int) -> None:
        self._data = data
        self._left = elements_max
        self._at = 0

    def left_after(self, start: int, end: int, parts: _Parts, levels: int) -> int:
        """How many more elements are allowed after the message from `start` to `end`; stops below 0."""
        self._at = start
        while self._at < end and self._left >= 0 and levels:
            tag = self._number()
            match tag & 7:
                case 0:
                    self._number()
                case 1:
                    self._at += 8
                case 5:
                    self._at += 4
                case 2:
                    length = self._number()
                    inner_end = self._at + length
                    part = parts.get(tag)
                    if part is not None:
                        self._left -= part.is_repeated
                        self.left_after(self._at, inner_end, part.inside, levels - 1)
                    self._at = inner_end
        return self._left

    def _number(self) -> int:
        """The varint at the current place."""
        number = shift = 0
        while True:
            byte = self._data[self._at]
            self._at += 1
            number |= (byte & 0x7F) << shift
            if byte < _MORE:
                return number
            shift += 7
            if shift > VARINT_BITS_MAX:
                raise _Malformed


def _parts_of(descriptor: Any, known: dict[Any, _Parts]) -> _Parts:
    """The fields of messages, also inside those. A nested kind contains itself."""
    parts = known.get(descriptor)
    if parts is None:
        parts = known[descriptor] = {}
        for field in descriptor.fields:
            if field.message_type is not None:
                parts[_tag(field)] = _Part(field.is_repeated, _parts_of(field.message_type, known))
    return parts


def _tag(field: FieldDescriptor) -> int:
    number: int = field.number
    return number << 3 | _DELIMITED


def _encoded(number: int) -> bytes:
    encoded = bytearray()
    while number >= _MORE:
        encoded.append(number & 0x7F | _MORE)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
