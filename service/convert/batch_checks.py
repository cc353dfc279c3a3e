"""Answers of batch checks → messages.

The message of each user is written in the wire format and the whole is parsed: setting the fields of ten
thousand messages one by one takes four times as long as everything else in a batch check.
"""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf.message import Message

from engine.audiences.model import BatchCheck, MembershipStatus
from milepost.v1 import audience_service_pb2 as pb
from service.convert.enums import numbers_of
from service.convert.revisions import Revisions
from service.convert.times import timestamp

_STATUSES = numbers_of(pb.MembershipStatus, MembershipStatus)

_LENGTH_DELIMITED = 2
"""The wire type of strings, messages and packed numbers."""
_BITS_PER_BYTE = 7
_BYTES = "latin-1"
"""The encoding that takes every byte for the character of its number."""


def batch_check_message(answer: BatchCheck, revisions: Revisions) -> pb.BatchCheckMembershipResponse:
    """One status for each user and audience."""
    message = pb.BatchCheckMembershipResponse.FromString(_users(answer))
    message.as_of.CopyFrom(timestamp(answer.as_of))
    message.revision = revisions.token(answer.revision)
    return message


def _users(answer: BatchCheck) -> bytes:
    """The field `users`, encoded. It is put together as text, one character a byte: Python builds many short
    texts in half the time of as many short byte strings.
    """
    user_ids = _one_character_a_byte(answer.user_ids)
    statuses = [
        pb.UserMemberships(statuses=[_STATUSES[status] for status in pattern]).SerializeToString()
        for pattern in answer.patterns
    ]
    lengths = set(map(len, user_ids))
    heads = [{length: _text(_head(length, len(each))) for length in lengths} for each in statuses]
    tails = [*map(_text, statuses)]
    parts = [
        f"{heads[row][len(user_id)]}{user_id}{tails[row]}"
        for row, user_id in zip(answer.rows, user_ids, strict=True)
    ]
    return "".join(parts).encode(_BYTES)


def _one_character_a_byte(texts: Sequence[str]) -> Sequence[str]:
    if "".join(texts).isascii():
        return texts
    return [_text(text.encode()) for text in texts]


def _text(raw: bytes) -> str:
    return raw.decode(_BYTES)


def _head(id_bytes: int, statuses_bytes: int) -> bytes:
    """What comes before a user id of that length: the length of the user's message, and its own."""
    of_id = _USER_ID + _varint(id_bytes)
    return _USERS + _varint(len(of_id) + id_bytes + statuses_bytes) + of_id


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number >> _BITS_PER_BYTE:
        encoded.append(number & 0x7F | 0x80)
        number >>= _BITS_PER_BYTE
    encoded.append(number)
    return bytes(encoded)


def _tag(kind: type[Message], field: str) -> bytes:
    return _varint(kind.DESCRIPTOR.fields_by_name[field].number << 3 | _LENGTH_DELIMITED)


_USERS = _tag(pb.BatchCheckMembershipResponse, "users")
_USER_ID = _tag(pb.UserMemberships, "user_id")
