"""Records of resources: durable documents, kept decoded in memory, changed in atomic groups.

One process owns the store, and an installation has few records compared with its users. So all records are
read once, and every later read is served from memory.
"""

from __future__ import annotations

import bisect
import itertools
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import msgspec

from engine.backends.base import Documents
from engine.errors import NotFound
from engine.limits import DEFAULT_LIMITS, Limits, Quotas
from engine.resources.paging import Pages
from engine.resources.quotas import Usage, Written
from engine.resources.records import (
    Account,
    ApiKey,
    Audience,
    Closing,
    Connection,
    Input,
    Journey,
    Milestone,
    Output,
    Record,
    Workspace,
    account_of,
)
from engine.resources.signing import Signer

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
    ApiKey: "api-key/",
}


VERSION_PREFIX = "journey-version/"
"""Keys of past versions of journeys: this and the journey's name."""

ANSWER_AGE_PREFIX = "answer-age/"
"""Keys of the answers to creates with a request id: this, the time, and the name of what was created. Their
values are the keys of the answers.
"""


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

    def records_of(self, kind: type[R]) -> dict[str, R | None]:
        """The records of a kind in this group, by name; None = deleted."""
        found = {name: record for (each, name), record in self._records.items() if each is kind}
        return cast(dict[str, R | None], found)

    def put_document(self, key: str, value: bytes) -> None:
        """Writes a document that is not a resource, in the same commit."""
        self._deletes.pop(key, None)
        self._puts[key] = value

    def delete_document(self, key: str) -> None:
        """Removes a document that is not a resource."""
        self._puts.pop(key, None)
        self._deletes[key] = None


class Generation:
    """A number that changes before records of some kinds do; needs no lock.

    What is read within `Repository.reading` is of the present number. What is read without is of the number
    when that was settled, read in this order, and has not changed afterwards.
    """

    __slots__ = ("is_settled", "kinds", "value")

    def __init__(self, kinds: tuple[type[Record], ...], value: int) -> None:
        self.kinds = kinds
        self.value = value
        self.is_settled = True
        """False while the records change."""


class Repository:
    """All records of a store. Safe to call from several threads."""

    def __init__(self, documents: Documents, limits: Limits = DEFAULT_LIMITS) -> None:
        self.documents = documents
        self.signer = Signer.of_store(documents)
        self.pages = Pages(self.signer, limits.page_token_bytes_max)
        self._writing = threading.RLock()
        self._tables = {kind: _Table(kind, documents) for kind in _PREFIXES}
        self._commits = 0
        self._latest_changes: dict[str, int] = {}
        """The number of the last commit to each account that exists."""
        self._latest_deletion = 0
        self._usage = Usage()
        for kind, prefix in _PREFIXES.items():
            for key, stored in documents.scan(prefix):
                self._usage.load(kind, key[len(prefix) :], len(stored))
        for key, _ in documents.scan(ANSWER_AGE_PREFIX):
            self._usage.load(None, _created_name(key), self._answer_bytes(key))
        self.version_bytes: Counter[str] = Counter()
        """Size of the past versions of an account's journeys."""
        for key, stored in documents.scan(VERSION_PREFIX):
            self.version_bytes[account_of(key.removeprefix(VERSION_PREFIX))] += len(stored)
        self._reading = threading.RLock()
        self._announced: list[tuple[tuple[type[Record], ...], Callable[[int], None]]] = []
        self._listeners: list[tuple[frozenset[type[Record]], Callable[[], None]]] = []
        self._generations: list[Generation] = []

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
        """A number that increases with every change to records of these kinds."""
        generation = 0
        for kind in kinds:
            generation += self._tables[kind].generation
        return generation

    def generation_of(self, *kinds: type[Record]) -> Generation:
        """As `generation`, kept up to date for those who read it often."""
        with self._writing, self._reading:
            kept = Generation(kinds, self.generation(*kinds))
            self._generations.append(kept)
            return kept

    def latest_change(self, account: str) -> int:
        """A number that differs after each commit to records of the account other than its connections."""
        return self._latest_changes.get(account, self._latest_deletion)

    def subscribe(self, kinds: Iterable[type[Record]], changed: Callable[[], None]) -> None:
        """Calls `changed` now, and after each commit with such records before its writer goes on."""
        with self._writing:
            self._listeners.append((frozenset(kinds), changed))
            changed()

    def announce(self, kinds: tuple[type[Record], ...], changes: Callable[[int], None]) -> None:
        """Calls `changes` with the generation of these kinds: now, and with the next one before a commit of
        such records becomes visible to anyone.
        """
        with self._writing, self._reading:
            self._announced.append((kinds, changes))
            changes(self.generation(*kinds))

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Reads inside see one state: no other commit becomes visible."""
        with self._reading:
            yield

    @contextmanager
    def writing(self) -> Iterator[Changes]:
        """At most one writer; commits all changes at the end of the block, or none when it raises. Reads
        inside see the state before.
        """
        with self._writing:
            changes = Changes()
            yield changes
            if not changes._puts and not changes._deletes:
                return
            added = self._usage.check(self._written(changes), self.quotas_of)
            version_bytes = self._version_bytes_of(changes)
            self.documents.commit(changes._puts, tuple(changes._deletes))
            self._usage.add(added)
            self.version_bytes.update(version_bytes)
            with self._reading:
                self._announce(changes)
                for (kind, name), record in changes._records.items():
                    self._tables[kind].apply(name, record)
                for generation in self._generations:
                    generation.is_settled = True
                self._number(changes)
            changed_kinds = {kind for kind, _ in changes._records}
            for kinds, changed in self._listeners:
                if kinds & changed_kinds:
                    changed()

    def _number(self, changes: Changes) -> None:
        self._commits += 1
        for kind, name in changes._records:
            if kind not in (Connection, Closing):
                self._latest_changes[account_of(name)] = self._commits
        for name, record in changes.records_of(Account).items():
            if record is None:
                del self._latest_changes[name]
                self._latest_deletion = self._commits

    def _written(self, changes: Changes) -> Iterator[Written]:
        for kind, name in changes._records:
            key = _key(kind, name)
            before, after = self.documents.get(key), changes._puts.get(key)
            yield Written(
                kind, name, None if before is None else len(before), None if after is None else len(after)
            )
        for key in changes._puts:
            if key.startswith(ANSWER_AGE_PREFIX):
                answer = changes._puts[changes._puts[key].decode()]
                yield Written(None, _created_name(key), None, len(answer))
        for key in changes._deletes:
            if key.startswith(ANSWER_AGE_PREFIX):
                yield Written(None, _created_name(key), self._answer_bytes(key), None)

    def _answer_bytes(self, age_key: str) -> int:
        answer_key = self.documents.get(age_key) or b""
        return len(self.documents.get(answer_key.decode()) or b"")

    def _version_bytes_of(self, changes: Changes) -> Counter[str]:
        """How much the past versions of journeys grow, by account."""
        grown: Counter[str] = Counter()
        for key in (*changes._puts, *changes._deletes):
            if key.startswith(VERSION_PREFIX):
                before, after = self.documents.get(key) or b"", changes._puts.get(key, b"")
                grown[account_of(key.removeprefix(VERSION_PREFIX))] += len(after) - len(before)
        return grown

    def quotas_of(self, account: str) -> Quotas:
        """The limits of an account, defaults included."""
        record = self.find(Account, account)
        return (Quotas() if record is None else record.quotas).effective()

    def _announce(self, changes: Changes) -> None:
        for kinds, tell in self._announced:
            changed = sum(kind in kinds for kind, _ in changes._records)
            if changed:
                tell(self.generation(*kinds) + changed)
        for generation in self._generations:
            generation.is_settled = False
            generation.value += sum(kind in generation.kinds for kind, _ in changes._records)


def _created_name(age_key: str) -> str:
    return age_key.removeprefix(ANSWER_AGE_PREFIX).partition("/")[2]


def _key(kind: type[Record], name: str) -> str:
    return _PREFIXES[kind] + name


def prefix_of(kind: type[Record]) -> str:
    """What the keys of the documents of a kind begin with."""
    return _PREFIXES[kind]


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
