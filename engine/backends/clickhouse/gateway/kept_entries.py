"""The entries that some replica lacks, until it has caught up. They are stored before they become visible."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

import msgspec

from engine.backends.clickhouse.gateway.keys import BEHIND, ENTRIES, entry_key, revision_of
from engine.backends.clickhouse.rows import Batch
from engine.backends.clickhouse.view import View
from engine.backends.clickhouse.writer import Entry, Move
from engine.backends.local.storage.compression import compressed, decompressed
from engine.backends.local.storage.environment import Environment

KEYS_AT_ONCE = 1_000


class _Kept(msgspec.Struct, frozen=True, array_like=True):
    """An entry as stored: rows, or the account, source and target of a move, and the rows that go with it."""

    batch: Batch | None = None
    moved: tuple[str, str, str] | None = None


_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(_Kept)


class KeptEntries:
    """The replicas that are behind, and the entries from there on. Safe to use from several threads."""

    def __init__(self, index: Environment) -> None:
        self._index = index
        with index.reading() as txn:
            stored = txn.get(BEHIND)
            self.behind: Mapping[str, int] = (
                {} if stored is None else msgspec.msgpack.decode(stored, type=dict[str, int])
            )
            """By replica, the revision up to which it has all rows."""

    def keep(self, entry: Entry, behind: Mapping[str, int]) -> None:
        """Stores an entry, and which replicas are behind. Raises LimitExceeded when the store is full."""
        if isinstance(entry, Batch):
            kept = _Kept(batch=entry)
        else:
            kept = _Kept(batch=entry.ids, moved=(entry.view.account, entry.source, entry.target))
        with self._index.writing() as txn:
            txn.put(entry_key(entry.revision), compressed(_encode(kept)))
            txn.put(BEHIND, _encode(behind))
        self.behind = dict(behind)

    def after(self, revision: int) -> Iterator[Entry]:
        """The entries after a revision, in order."""
        while True:
            start = entry_key(revision + 1)
            with self._index.reading() as txn:
                keys = itertools.islice((each for each in txn.keys(ENTRIES) if each >= start), KEYS_AT_ONCE)
                found = list(keys)
            if not found:
                return
            for stored in found:
                revision = revision_of(stored)
                yield from self._entry(revision)

    def _entry(self, revision: int) -> Iterator[Entry]:
        with self._index.reading() as txn:
            stored = txn.get(entry_key(revision))
            kept = None if stored is None else _decoder.decode(decompressed(stored))
        if kept is None:
            return
        if kept.moved is not None:
            account, source, target = kept.moved
            view = View(account=account)
            yield Move(revision=revision, source=source, target=target, view=view, ids=kept.batch)
        elif kept.batch is not None:
            yield kept.batch

    def settle(self, behind: Mapping[str, int]) -> None:
        """Some replicas have caught up: drops the entries that none of the others lacks."""
        if behind == self.behind:
            return
        with self._index.writing() as txn:
            end = entry_key(min(behind.values()) + 1) if behind else None
            txn.delete_prefix(ENTRIES, end)
            txn.put(BEHIND, _encode(behind))
        self.behind = dict(behind)
