"""Messages of any kind with arbitrary contents, by reflection: what callers may send, sensible or not."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

DEPTH_MAX = 6
FIELDS_FILLED_PERCENT = 40
REPEATED = (0, 1, 1, 2, 3, 12)
MANY = 3_000
MANY_PER_THOUSAND = 5
"""How often a repeated field gets `MANY` elements instead of a few; messages among them are empty."""
EDGE_TEXTS = (
    "",
    " ",
    "-",
    "*",
    "%00",
    "\x00",
    "accounts/",
    "accounts/a/journeys/-",
    "accounts/a/../b",
    "é\u0301\U0001f642",
    "x" * 257,
    "y" * 70_000,
    "1970-01-01T00:00:00Z",
    "(a+)+$",
    "*a*b*",
    "9" * 400,
    "NaN",
)
_INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32: (-(1 << 31), (1 << 31) - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(1 << 63), (1 << 63) - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, (1 << 32) - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, (1 << 64) - 1),
}
EDGE_FLOATS = (0.0, -0.0, 1.0, -1.5, 1e308, 5e-324, float("inf"), float("-inf"), float("nan"))
ENUM_NUMBER_UNKNOWN = 9_999


class RandomMessages:
    """Draws and changes messages. `texts` are values that mean something to the service, such as names."""

    def __init__(self, source: random.Random, texts: Sequence[str]) -> None:
        self._source = source
        self._texts = texts

    def fill(self, message: Message, depth: int = 0) -> None:
        """Sets some of the message's fields, and of those below."""
        for field in message.DESCRIPTOR.fields:
            if depth <= DEPTH_MAX and self._source.randrange(100) < FIELDS_FILLED_PERCENT:
                self._set(message, field, depth)

    def change(self, message: Message) -> None:
        """Sets or clears one field of the message, or of a message in it."""
        source = self._source
        while present := [value for _, value in message.ListFields()]:
            inner = [part for value in present for part in _messages_of(value)]
            if not inner or source.randrange(3) == 0:
                break
            message = source.choice(inner)
        if not message.DESCRIPTOR.fields:
            return
        field: Any = source.choice(list(message.DESCRIPTOR.fields))
        message.ClearField(field.name)
        if source.randrange(5):
            self._set(message, field, 0)

    def damage(self, data: bytes) -> bytes:
        """The bytes of a message with some of them changed, lost or added."""
        source = self._source
        damaged = bytearray(data or source.randbytes(20))
        for _ in range(source.randint(1, 4)):
            place = source.randrange(len(damaged) + 1)
            damaged[place : place + source.randrange(4)] = source.randbytes(source.randrange(4))
        return bytes(damaged)

    def _set(self, message: Message, field: Any, depth: int) -> None:
        is_message = field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE
        if is_message and field.message_type.GetOptions().map_entry:
            self._set_map(getattr(message, field.name), field, depth)
        elif field.is_repeated:
            values = getattr(message, field.name)
            count = self._count()
            for _ in range(count):
                if is_message and count == MANY:
                    values.add()
                elif is_message:
                    self.fill(values.add(), depth + 1)
                else:
                    values.append(self._scalar(field))
        elif is_message:
            inner = getattr(message, field.name)
            inner.SetInParent()
            self.fill(inner, depth + 1)
        else:
            setattr(message, field.name, self._scalar(field))

    def _set_map(self, values: Any, field: Any, depth: int) -> None:
        key, value = (field.message_type.fields_by_name[name] for name in ("key", "value"))
        for _ in range(self._source.choice(REPEATED)):
            if value.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
                self.fill(values[self._scalar(key)], depth + 1)
            else:
                values[self._scalar(key)] = self._scalar(value)

    def _count(self) -> int:
        return MANY if self._source.randrange(1_000) < MANY_PER_THOUSAND else self._source.choice(REPEATED)

    def _scalar(self, field: Any) -> Any:
        source = self._source
        match field.cpp_type:
            case FieldDescriptor.CPPTYPE_BOOL:
                return source.random() < 0.5
            case FieldDescriptor.CPPTYPE_ENUM:
                numbers = [each.number for each in field.enum_type.values]
                return source.choice([*numbers, ENUM_NUMBER_UNKNOWN])
            case FieldDescriptor.CPPTYPE_DOUBLE | FieldDescriptor.CPPTYPE_FLOAT:
                return source.choice(EDGE_FLOATS)
            case FieldDescriptor.CPPTYPE_STRING if field.type == FieldDescriptor.TYPE_BYTES:
                return source.randbytes(source.choice((0, 1, 40, 5_000)))
            case FieldDescriptor.CPPTYPE_STRING:
                return source.choice(EDGE_TEXTS if source.randrange(4) == 0 else self._texts)
            case _:
                low, high = _INTEGERS[field.cpp_type]
                return min(max(source.choice((low, high, 0, 1, -1, 7, 1_000, 1 << 20)), low), high)


def _messages_of(value: Any) -> list[Message]:
    """The messages in the value of a field, at most some of a long list."""
    if isinstance(value, Message):
        return [value]
    if hasattr(value, "values"):
        return [part for part in list(value.values())[:20] if isinstance(part, Message)]
    if isinstance(value, str | bytes | int | float):
        return []
    return [part for part in value[:20] if isinstance(part, Message)]
