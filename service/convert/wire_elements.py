"""How many messages and texts the lists and maps of a request hold, counted on its bytes before it is parsed.

Parsing builds an object for each element, while the interpreter runs nothing else: two million empty ones fit
into 4 MB, and take 180 MB and a sixth of a second. So the count comes first, when a message is long enough to
exceed the limit at all. Numbers in lists take little more memory than bytes, and are not counted.
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

_TEXTS = (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES)
_DELIMITED = 2
"""The wire type of texts and messages."""
_FIXED_BYTES = {1: 8, 5: 4}
"""By wire type."""
_MORE = 0x80


class _Malformed(ValueError):
    """The bytes are not those of a message."""


class _Part(NamedTuple):
    """What a field of messages or texts holds. There is nothing inside a text."""

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
        self.nest = _nest(self._parts)
        """Whether some message in it can hold one of its own kind."""
        self._tags = [_encoded(tag) for tag in sorted(repeated)]

    def are_too_many(self, data: bytes, elements_max: int = MESSAGE_ELEMENTS_MAX) -> bool:
        """Whether the message has more elements than that. What cannot be parsed may have any number."""
        if len(data) <= elements_max * ELEMENT_BYTES_MIN:
            return False
        # The tags occur in texts too: an upper bound, which nearly every message stays below.
        if sum(map(data.count, self._tags)) <= elements_max:
            return False
        try:
            return _left_after(data, 0, len(data), self._parts, elements_max, NESTED_MAX) < 0
        except (IndexError, _Malformed):
            # The parser refuses it at the same place.
            return False


def _left_after(data: bytes, at: int, end: int, parts: _Parts, left: int, levels: int) -> int:
    """How many more elements are allowed after the message from `at` to `end`; stops below 0. Most fields
    take no call: there may be millions.
    """
    while at < end and left >= 0 and levels:
        tag = data[at]
        at += 1
        if tag >= _MORE:
            tag, at = _number(data, at - 1)
        kind = tag & 7
        if kind == _DELIMITED:
            length = data[at]
            at += 1
            if length >= _MORE:
                length, at = _number(data, at - 1)
            part = parts.get(tag)
            if part is not None:
                left -= part.is_repeated
                if length and part.inside:
                    left = _left_after(data, at, at + length, part.inside, left, levels - 1)
            at += length
        elif kind in _FIXED_BYTES:
            at += _FIXED_BYTES[kind]
        elif kind == 0:
            _, at = _number(data, at)
    return left


def _number(data: bytes, at: int) -> tuple[int, int]:
    """The varint at a place, and the place after it."""
    number = shift = 0
    while True:
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < _MORE:
            return number, at
        shift += 7
        if shift > VARINT_BITS_MAX:
            raise _Malformed


def _parts_of(descriptor: Any, known: dict[Any, _Parts]) -> _Parts:
    """The fields of messages and of lists of texts, also inside messages. A nested kind contains itself."""
    parts = known.get(descriptor)
    if parts is None:
        parts = known[descriptor] = {}
        for field in descriptor.fields:
            if field.message_type is not None:
                parts[_tag(field)] = _Part(field.is_repeated, _parts_of(field.message_type, known))
            elif field.is_repeated and field.type in _TEXTS:
                parts[_tag(field)] = _Part(True, {})
    return parts


def _nest(parts: _Parts, above: tuple[int, ...] = ()) -> bool:
    """Whether a kind of message is met again inside itself; `above` are those that this one is in."""
    return id(parts) in above or any(_nest(part.inside, (*above, id(parts))) for part in parts.values())


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
