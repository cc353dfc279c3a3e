"""Records of resources: durable documents, kept decoded in memory, changed in atomic groups.

One process owns the store, and the records of an installation are few beside its users, so that all of them
are read once and every later read is served from memory.
"""

from __future__ import annotations

import bisect
import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import msgspec

from engine.backends.base import Documents
from engine.errors import NotFound
from engine.resources.records import (
    Account,
    Audience,
    Closing,
    Connection,
    Input,
    Journey,
    Milestone,
    Output,
    Record,
    Workspace,
)

R = TypeVar("R", bound=Record)

_PREFIXES: dict[type[Record], str] = {
    Account: "account/",
    Workspace: "workspace/",
    Input: "input/",
    Journey: "journey/",
    Milestone: "milestone/",
    Audience: "audience/",
    Output: "output/",
    Connection: "connection/",
    Closing: "closing/",
}


class Changes:
    """A group of changes for one commit."""

    def __init__(self) -> None:
        self._puts: dict[str, bytes] = {}
        self._deletes: dict[str, None] = {}
        self._records: dict[tuple[type[Record], str], Record | None] = {}

    def put(self, record: Record) -> None:
        """Writes a record, new or changed."""
        self.put_document(_key(type(record), record.name), msgspec.msgpack.encode(record))
        self._records[type(record), record.name] = record

    def delete(self, record: Record) -> None:
        """Removes a record."""
        self.delete_document(_key(type(record), record.name))
        self._records[type(record), record.name] = None

    def put_document(self, key: str, value: bytes) -> None:
        """Writes a document that is not a resource, in the same commit."""
        self._deletes.pop(key, None)
        self._puts[key] = value

    def delete_document(self, key: str) -> None:
        """Removes such a document."""
        self._puts.pop(key, None)
        self._deletes[key] = None


class Repository:
    """All records of a store. Safe to call from several threads."""

    def __init__(self, documents: Documents) -> None:
        self.documents = documents
        self._writing = threading.RLock()
        self._tables = {kind: _Table(kind, documents) for kind in _PREFIXES}
        self._reading = threading.RLock()

    def find(self, kind: type[R], name: str) -> R | None:
        """The record of that name, or None."""
        return self._tables[kind].records.get(name)

    def get(self, kind: type[R], name: str) -> R:
        """The record of that name. Raises NotFound."""
        record = self.find(kind, name)
        if record is None:
            raise NotFound(name)
        return record

    def scan(self, kind: type[R], prefix: str) -> tuple[R, ...]:
        """Every record whose name starts with `prefix`, in order of name."""
        with self._reading:
            return self._tables[kind].scan(prefix)

    def generation(self, *kinds: type[Record]) -> int:
        """A number that grows with every change to a record of these kinds."""
        return sum(self._tables[kind].generation for kind in kinds)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Reads inside see one state: no other commit becomes visible."""
        with self._reading:
            yield

    @contextmanager
    def writing(self) -> Iterator[Changes]:
        """One writer at a time; commits at the end of the block, all or nothing, and not at all when it
        raises. Reads inside see the state before.
        """
        with self._writing:
            changes = Changes()
            yield changes
            if not changes._puts and not changes._deletes:
                return
            self.documents.commit(changes._puts, tuple(changes._deletes))
            with self._reading:
                for (kind, name), record in changes._records.items():
                    self._tables[kind].apply(name, record)


def _key(kind: type[Record], name: str) -> str:
    return _PREFIXES[kind] + name


class _Table:
    """The records of one kind, by name and in order of name."""

    def __init__(self, kind: type[Any], documents: Documents) -> None:
        prefix = _PREFIXES[kind]
        decoder = msgspec.msgpack.Decoder(kind)
        self.records: dict[str, Any] = {
            key[len(prefix) :]: decoder.decode(value) for key, value in documents.scan(prefix)
        }
        self.generation = 0
        self._names = sorted(self.records)

    def scan(self, prefix: str) -> tuple[Any, ...]:
        start = bisect.bisect_left(self._names, prefix)
        found = []
        for name in itertools.islice(self._names, start, None):
            if not name.startswith(prefix):
                break
            found.append(self.records[name])
        return tuple(found)

    def apply(self, name: str, record: Record | None) -> None:
        self.generation += 1
        known = name in self.records
        if record is None:
            if known:
                del self.records[name]
                del self._names[bisect.bisect_left(self._names, name)]
            return
        self.records[name] = record
        if not known:
            bisect.insort(self._names, name)
