"""Idempotent creates: a repeat with the same `request_id` returns the first response.

The response is stored in the same commit as the resource and dropped `ANSWERS_KEPT_DAYS` later, by the
clock that removals use.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import msgspec
import xxhash

from engine.clock import Stamp
from engine.errors import InvalidInput
from engine.limits import Limits
from engine.resources.records import Record
from engine.resources.repository import ANSWER_AGE_PREFIX, Changes, Repository
from engine.values import MICROS_PER_DAY

ANSWERS_KEPT_DAYS = 7
FORGOTTEN_AT_ONCE_MAX = 16

R = TypeVar("R", bound=Record)

_ANSWER = "answer/"


class _Answer(msgspec.Struct, frozen=True, array_like=True):
    record: bytes


class Requests:
    """The stored responses."""

    def __init__(self, repository: Repository, limits: Limits, stamp: Callable[[], Stamp]) -> None:
        self._repository = repository
        self._stamp = stamp
        self._limits = limits

    def first_answer(self, method: str, parent: str, request_id: str, kind: type[R]) -> R | None:
        """The response of the first call with this id, or None. Raises InvalidInput for too long an id."""
        if not request_id:
            return None
        if len(request_id.encode()) > self._limits.name_bytes_max:
            raise InvalidInput.one("request_id", f"is longer than {self._limits.name_bytes_max} bytes")
        stored = self._repository.documents.get(_key(method, parent, request_id))
        if stored is None:
            return None
        answer = msgspec.msgpack.decode(stored, type=_Answer)
        return msgspec.msgpack.decode(answer.record, type=kind)

    def remember(
        self,
        changes: Changes,
        method: str,
        parent: str,
        request_id: str,
        record: Record,
    ) -> None:
        """Stores a response in the commit of `changes` and drops some expired ones."""
        if not request_id:
            return
        now = self._stamp()
        key = _key(method, parent, request_id)
        answer = _Answer(msgspec.msgpack.encode(record))
        changes.put_document(key, msgspec.msgpack.encode(answer))
        changes.put_document(f"{ANSWER_AGE_PREFIX}{now.arrival:020d}/{record.name}", key.encode())
        expired = f"{ANSWER_AGE_PREFIX}{now.settled - ANSWERS_KEPT_DAYS * MICROS_PER_DAY:020d}"
        oldest = self._repository.documents.scan(ANSWER_AGE_PREFIX, FORGOTTEN_AT_ONCE_MAX)
        for age_key, answer_key in oldest:
            if age_key < expired:
                changes.delete_document(age_key)
                changes.delete_document(answer_key.decode())

    def forget(self, changes: Changes, name: str) -> None:
        """Drops the responses about a deleted resource and what was below it."""
        for age_key, answer_key in self._repository.documents.scan(ANSWER_AGE_PREFIX):
            _, _, created = age_key.removeprefix(ANSWER_AGE_PREFIX).partition("/")
            if f"{created}/".startswith(f"{name}/"):
                changes.delete_document(age_key)
                changes.delete_document(answer_key.decode())


def _key(method: str, parent: str, request_id: str) -> str:
    # Hashed: a parent and an id together may exceed the length of a document key.
    return f"{_ANSWER}{xxhash.xxh3_128_hexdigest(msgspec.msgpack.encode((method, parent, request_id)))}"
