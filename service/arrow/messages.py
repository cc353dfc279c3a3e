"""The messages of an Arrow IPC stream, each checked against the size limits before it is read.

Arrow's own reader unpacks a compressed record batch before its size can be checked: one megabyte may become
gigabytes. But each message announces what it holds. On the wire it is

    0xFFFFFFFF, the length of the metadata (int32), the metadata, the body

The metadata is a flatbuffer `Message` (Message.fbs of the Arrow format) with the length of the body and the
position of each buffer in it. In a compressed body each buffer begins with its unpacked size (int64, -1 if it
is not compressed), and the reader unpacks exactly that many bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.errors import InvalidInput, Violation

ARROW = "arrow"

_CONTINUATION = 0xFFFFFFFF
_LENGTH = struct.Struct("<I")
_DICTIONARY_BATCH, _RECORD_BATCH = 2, 3
"""Types of message that have a body."""
_NOT_COMPRESSED = -1
_SIZE_BYTES = 8
_EARLY_COMPRESSION = b"ARROW:experimental_compression"
"""Metadata key with which Arrow 0.17 marked a compressed body."""
_BUFFER = np.dtype([("offset", "<i8"), ("length", "<i8")])


def broken(reason: str) -> InvalidInput:
    """The error for an unreadable stream."""
    return InvalidInput.one(ARROW, f"is not a valid Arrow IPC stream: {reason}")


def too_large(actual: int, limit: int) -> InvalidInput:
    """The error for record batches or dictionaries that are too large."""
    described = f"has a record batch of {actual:,} bytes; at most {limit:,} are allowed; send smaller batches"
    metadata = {"limit": str(limit), "actual": str(actual)}
    return InvalidInput([Violation(ARROW, described)], reason="BATCH_TOO_LARGE", metadata=metadata)


def checked(read: Callable[[int], bytes], bytes_max: int) -> Iterator[bytes]:
    """The bytes of the stream, in the pieces that its reader requests, in order.

    `read` returns that many bytes, fewer only at the end. Raises InvalidInput for a message that is, or
    unpacks to, more than `bytes_max`, before it is held in memory; for dictionaries that together exceed it;
    and for malformed metadata.
    """
    dictionary_bytes: dict[int, int] = {}
    while True:
        prefix = read(_LENGTH.size)
        yield prefix
        if prefix == _LENGTH.pack(_CONTINUATION):
            prefix = read(_LENGTH.size)
            yield prefix
        # Before Arrow 0.15 there was no marker before the length.
        length = _LENGTH.unpack(prefix)[0] if len(prefix) == _LENGTH.size else 0
        if not length:
            return
        if length > bytes_max:
            raise too_large(length, bytes_max)
        metadata = read(length)
        yield metadata
        if len(metadata) < length:
            return
        yield _body(read, metadata, bytes_max, dictionary_bytes)


def _body(
    read: Callable[[int], bytes], metadata: bytes, bytes_max: int, dictionary_bytes: dict[int, int]
) -> bytes:
    """The body of a message. Records the sizes of the stream's dictionaries by id."""
    try:
        message = _Message.of(metadata)
    except (struct.error, ValueError, IndexError) as error:
        raise broken("the metadata of a message cannot be read") from error
    if message.body_bytes > bytes_max:
        raise too_large(message.body_bytes, bytes_max)
    body = read(message.body_bytes)
    if len(body) < message.body_bytes:
        # Truncated; the reader reports that.
        return body
    unpacked_bytes = _unpacked_bytes(message, body)
    if unpacked_bytes > bytes_max:
        raise too_large(unpacked_bytes, bytes_max)
    if message.dictionary is not None:
        # The reader keeps the latest dictionary of each id, and its deltas.
        held = dictionary_bytes.get(message.dictionary, 0) if message.is_delta else 0
        dictionary_bytes[message.dictionary] = held + unpacked_bytes
        if sum(dictionary_bytes.values()) > bytes_max:
            raise too_large(sum(dictionary_bytes.values()), bytes_max)
    return body


def _unpacked_bytes(message: _Message, body: bytes) -> int:
    """Unpacked size of the body's buffers, in bytes; the size of the body when it is not compressed."""
    if not message.is_compressed:
        return len(body)
    total = 0
    for offset, length in message.buffers.tolist():
        if not length:
            continue
        if offset < 0 or length < _SIZE_BYTES or offset + length > len(body):
            raise broken("a compressed buffer lies outside of the body")
        size = int.from_bytes(body[offset : offset + _SIZE_BYTES], "little", signed=True)
        if size < _NOT_COMPRESSED:
            raise broken("a compressed buffer has no size")
        total += length - _SIZE_BYTES if size == _NOT_COMPRESSED else size
    return total


@dataclass(frozen=True, slots=True)
class _Message:
    """The metadata of a message. `dictionary` is the id of its dictionary."""

    body_bytes: int
    is_compressed: bool = False
    buffers: Any = ()
    dictionary: int | None = None
    is_delta: bool = False

    @classmethod
    def of(cls, metadata: bytes) -> _Message:
        """Reads the metadata. Raises struct.error, ValueError or IndexError when it is malformed."""
        # The numbers are those of the fields in Message.fbs.
        message = _Table.root(metadata)
        kind, body_bytes = message.scalar(1, "<B"), message.scalar(3, "<q")
        if body_bytes < 0:
            raise ValueError("the length of the body is negative")
        if kind not in (_DICTIONARY_BATCH, _RECORD_BATCH):
            return cls(body_bytes)
        header = message.table(2)
        dictionary = header.scalar(0, "<q") if kind == _DICTIONARY_BATCH else None
        is_delta = kind == _DICTIONARY_BATCH and header.scalar(2, "<B") != 0
        batch = header.table(1) if kind == _DICTIONARY_BATCH else header
        is_compressed = batch.has(3) or _EARLY_COMPRESSION in metadata
        return cls(body_bytes, is_compressed, batch.structs(2, _BUFFER), dictionary, is_delta)


class _Table:
    """A table of a flatbuffer: fields by number, all optional."""

    def __init__(self, data: bytes, at: int) -> None:
        self._data = data
        self._at = at
        fields = at - self._number("<i", at)
        count = (self._number("<H", fields) - 4) // 2
        self._fields = [self._number("<H", fields + 4 + 2 * field) for field in range(count)]

    @classmethod
    def root(cls, data: bytes) -> _Table:
        """The root table of a flatbuffer."""
        return cls(data, struct.unpack_from("<I", data)[0])

    def has(self, field: int) -> bool:
        """Whether the field is present."""
        return field < len(self._fields) and self._fields[field] != 0

    def scalar(self, field: int, form: str) -> int:
        """A number; 0 when absent."""
        return self._number(form, self._at + self._fields[field]) if self.has(field) else 0

    def table(self, field: int) -> _Table:
        """A table; raises ValueError when absent."""
        return _Table(self._data, self._place(field))

    def structs(self, field: int, form: np.dtype[Any]) -> Any:
        """A vector of structs; empty when absent."""
        if not self.has(field):
            return np.zeros(0, form)
        at = self._place(field)
        return np.frombuffer(self._data, form, self._number("<I", at), at + 4)

    def _place(self, field: int) -> int:
        if not self.has(field):
            raise ValueError("a field is missing")
        at = self._at + self._fields[field]
        return at + self._number("<I", at)

    def _number(self, form: str, at: int) -> int:
        if at < 0:
            raise ValueError("an offset leads out of the metadata")
        number: int = struct.unpack_from(form, self._data, at)[0]
        return number
