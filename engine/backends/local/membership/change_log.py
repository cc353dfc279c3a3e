"""The change log of each stored membership: which users entered and exited, in order.

There is one record per refresh, with the bitmaps of users that entered and exited, so a million entries cost
little. Within a record, changes are numbered group by group, entries before exits, ascending. A change that a
consumer has read is never renumbered.
"""

from __future__ import annotations

import bisect
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec
from pyroaring import BitMap

from engine.backends.base import Change, ChangePage
from engine.backends.local.account.people import People
from engine.backends.local.membership.erased import ErasedIds
from engine.backends.local.membership.states import States, StoredState
from engine.backends.local.storage.environment import Environment
from engine.backends.local.storage.keys import Family, key
from engine.backends.local.storage.transactions import ReadTransaction, Writable
from engine.criteria.words import instant_in_words
from engine.errors import CursorExpired
from engine.values import Micros

CHANGES_RETAINED_MAX = 5_000_000
"""Changes kept for each audience, at least. The next refresh deletes whole records beyond this number."""


COPIED_RECORDS_MAX = 1_000
COPIED_BYTES_MAX = 16 * 1024 * 1024
"""Records of a change log that a copy of a membership takes over, while others wait."""
PAUSE_RECORDS = 16
"""Records that are read before others go first."""


class ChangeRecord(msgspec.Struct, frozen=True, array_like=True):
    """Changes of one instant: bitmaps of entries and exits for each group that has any."""

    as_of: Micros
    groups: tuple[tuple[int, bytes, bytes], ...]
    updates: tuple[tuple[int, bytes], ...] = ()
    """Members whose opted-in values have changed, by group. Numbered after all entries and exits."""


class _Instant(msgspec.Struct, frozen=True, array_like=True):
    """The beginning of a `ChangeRecord`."""

    as_of: Micros


@dataclass(frozen=True, slots=True)
class GroupChanges:
    """Entries and exits of one group."""

    group: int
    entered: BitMap
    exited: BitMap


class ChangeLog:
    """The change logs of all stored memberships. A method that takes a transaction only writes to it; after
    the commit, `written` or `forget` makes the change visible, and `notify` calls those who listen.
    """

    def __init__(
        self,
        stored: ReadTransaction,
        index: Environment,
        states: States,
        erased_ids: ErasedIds,
        retained_max: int,
    ) -> None:
        self._index = index
        self._states = states
        self._erased_ids = erased_ids
        self._retained_max = retained_max
        self._listening = threading.Lock()
        self._listeners: dict[str, dict[object, Callable[[], None]]] = {}
        self._records: dict[int, list[int]] = {}
        self._named: dict[int, dict[int, BitMap]] = {}
        """By membership (number), the users whom its stored changes name, by group; more after a failure."""
        self._naming: list[tuple[int, dict[int, BitMap]]] = []
        """The same while it is being found."""
        for state in states.all():
            keys = stored.keys(key(Family.CHANGES, state.number))
            self._records[state.number] = [int.from_bytes(found[5:], "big") for found in keys]

    # --- changing ---

    def append(
        self, txn: Writable, state: StoredState, changes: Sequence[GroupChanges], as_of: Micros
    ) -> list[int]:
        """Writes a record of changes, if there are any, and deletes the oldest records while enough changes
        remain. Updates the sequences and totals of the state. Returns the starts of its records.
        """
        starts = list(self._records.get(state.number, ()))
        if changes:
            entered = sum(len(change.entered) for change in changes)
            exited = sum(len(change.exited) for change in changes)
            start = state.last_sequence + 1
            record = ChangeRecord(
                as_of, tuple((c.group, c.entered.serialize(), c.exited.serialize()) for c in changes)
            )
            txn.put(key(Family.CHANGES, state.number, start), msgspec.msgpack.encode(record))
            self._name(state.number, record)
            starts.append(start)
            state.last_sequence += entered + exited
            state.size += entered - exited
            state.entered_total += entered
            state.exited_total += exited
        while len(starts) > 1 and state.last_sequence - starts[1] + 1 >= self._retained_max:
            txn.delete(key(Family.CHANGES, state.number, starts.pop(0)))
            self._named.pop(state.number, None)
            state.first_sequence = max(state.first_sequence, starts[0])
        return starts

    def append_updates(
        self, txn: Writable, state: StoredState, updates: Mapping[int, BitMap], as_of: Micros
    ) -> list[int]:
        """As `append`, for members whose opted-in values have changed, by group."""
        starts, start = list(self._records.get(state.number, ())), state.last_sequence + 1
        stored = tuple((group, users.serialize()) for group, users in sorted(updates.items()))
        record = ChangeRecord(as_of, (), stored)
        txn.put(key(Family.CHANGES, state.number, start), msgspec.msgpack.encode(record))
        self._name(state.number, record)
        state.last_sequence += sum(map(len, updates.values()))
        return [*starts, start]

    def trim(self, txn: Writable, state: StoredState, through: int) -> list[int]:
        """Deletes records whose changes all have sequences up to and including `through`. Returns the starts
        of the other records.
        """
        starts = list(self._records[state.number])
        while starts and (starts[1] if len(starts) > 1 else state.last_sequence + 1) <= through + 1:
            txn.delete(key(Family.CHANGES, state.number, starts.pop(0)))
            self._named.pop(state.number, None)
        return starts

    def copy(
        self, txn: Writable, stored: ReadTransaction, state: StoredState, number: int, after: int
    ) -> list[int] | None:
        """Writes the records with changes above `after` for another membership (number). Returns their
        starts; None, with nothing written, when they are too many or too large.
        """
        starts = self._records[state.number]
        starts = starts[max(0, bisect.bisect_right(starts, after + 1) - 1) :]
        if after >= state.last_sequence:
            return []
        if len(starts) > COPIED_RECORDS_MAX:
            return None
        records = [bytes(stored.get(key(Family.CHANGES, state.number, start)) or b"") for start in starts]
        if sum(map(len, records)) > COPIED_BYTES_MAX:
            return None
        for start, record in zip(starts, records, strict=True):
            txn.put(key(Family.CHANGES, number, start), record)
        return starts

    def written(self, state: StoredState, starts: list[int]) -> None:
        """Takes over the committed result of `append` or `trim`."""
        self._records[state.number] = starts

    def delete(self, txn: Writable, state: StoredState) -> None:
        """Deletes the change log of a membership."""
        txn.delete_prefix(key(Family.CHANGES, state.number))

    def starts(self, state: StoredState) -> list[int]:
        """The starts of the records of a membership."""
        return self._records[state.number]

    def forget(self, state: StoredState) -> list[int]:
        """Forgets a change log that is being deleted. Returns the starts of its records."""
        self._named.pop(state.number, None)
        return self._records.pop(state.number, [])

    # --- whom changes name ----------------------------------------------------------------------------------

    def find_named(self, state: StoredState, pause: Callable[[], None] = lambda: None) -> None:
        """Prepares `named` by reading the stored changes once; until some of them are deleted it stays
        prepared. Calls `pause` from time to time, which may let others go first.
        """
        number = state.number
        if number in self._named:
            return
        naming = number, dict[int, BitMap]()
        # From now on it takes part in `append`.
        self._naming.append(naming)
        try:
            for count, start in enumerate(list(self._records.get(number, ()))):
                if count % PAUSE_RECORDS == PAUSE_RECORDS - 1:
                    pause()
                with self._index.reading() as txn:
                    stored = txn.get(key(Family.CHANGES, number, start))
                    if stored is not None:
                        _add_named(naming[1], msgspec.msgpack.decode(stored, type=ChangeRecord))
            self._named[number] = naming[1]
        finally:
            self._naming = [each for each in self._naming if each is not naming]

    def named(self, state: StoredState) -> Mapping[int, BitMap]:
        """The users, by group, whom stored changes of the membership name."""
        self.find_named(state)
        return self._named[state.number]

    def _name(self, number: int, record: ChangeRecord) -> None:
        known = [naming for other, naming in self._naming if other == number]
        known += [self._named[number]] if number in self._named else []
        for named in known:
            _add_named(named, record)

    # --- reading ---

    def read(self, account: People | None, audience: str, after: int, limit: int) -> ChangePage:
        """Changes with a sequence above `after`, in order. An account without data has none."""
        state = self._states.get(audience)
        if after + 1 < state.first_sequence:
            oldest = state.first_sequence - 1
            raise CursorExpired(
                f"changes of {audience} up to {oldest} are gone",
                metadata={"oldest_cursor": str(oldest)},
            )
        found: list[Change] = []
        starts = self._records[state.number]
        first = max(0, bisect.bisect_right(starts, after + 1) - 1)
        ends = [*(start - 1 for start in starts[first + 1 :]), state.last_sequence]
        for start, end in zip(starts[first:], ends, strict=False):
            if len(found) >= limit or account is None:
                break
            with self._index.reading() as txn:
                stored = txn.get(key(Family.CHANGES, state.number, start))
                record = msgspec.msgpack.decode(stored or b"", type=ChangeRecord)
            found += self._of_record(account, record, start, end, after, limit - len(found))
        last = found[-1].sequence if found else after
        return ChangePage(tuple(found), last >= state.last_sequence, state.as_of)

    def sequence_at(self, audience: str, instant: Micros) -> int:
        """Sequence of the last change up to an instant; 0 when there is none."""
        state = self._states.get(audience)
        starts = self._records[state.number]
        # Instants of records never go back.
        at = bisect.bisect_right(starts, instant, key=lambda start: self._as_of(state, start))
        is_whole = state.first_sequence == 1
        if at == 0 and not is_whole:
            oldest = self._as_of(state, starts[0]) if starts else state.as_of
            if instant < oldest:
                raise CursorExpired(
                    f"changes of {audience} before {instant_in_words(oldest)} are gone: replay from then or "
                    "later, or from the start",
                    metadata={"oldest_time": instant_in_words(oldest)},
                )
        return starts[at] - 1 if at < len(starts) else state.last_sequence

    def _as_of(self, state: StoredState, start: int) -> Micros:
        with self._index.reading() as txn:
            stored = txn.get(key(Family.CHANGES, state.number, start))
            return msgspec.msgpack.decode(stored or b"", type=_Instant).as_of

    def _of_record(
        self, account: People, record: ChangeRecord, start: int, end: int, after: int, limit: int
    ) -> Iterator[Change]:
        """Up to `limit` changes of a record whose first one is number `start` and whose last one is `end`."""
        sequence = start
        for group, *bitmaps in record.groups:
            for entered, stored in zip((True, False), bitmaps, strict=True):
                users = BitMap.deserialize(stored)
                skipped = min(len(users), max(0, after + 1 - sequence))
                page = users[skipped : skipped + limit] if skipped < len(users) and limit else BitMap()
                for offset, user_id in enumerate(self._ids(account, group, page), sequence + skipped):
                    yield Change(offset, user_id, entered, record.as_of, offset == end)
                sequence += len(users)
                limit -= len(page)
        for group, stored in record.updates:
            users = BitMap.deserialize(stored)
            skipped = min(len(users), max(0, after + 1 - sequence))
            page = users[skipped : skipped + limit] if skipped < len(users) and limit else BitMap()
            for offset, user_id in enumerate(self._ids(account, group, page), sequence + skipped):
                yield Change(offset, user_id, True, record.as_of, offset == end, updated=True)
            sequence += len(users)
            limit -= len(page)

    def _ids(self, account: People, group: int, users: BitMap) -> Iterator[str]:
        for dense, user_id in zip(users, account.directory.user_ids(group, users), strict=True):
            yield user_id or self._erased_ids.find(account.number, group, dense)

    # --- listening ---

    def listen(self, audience: str, changed: Callable[[], None]) -> Callable[[], None]:
        """Calls `changed` with each `notify` of the audience, until the result is called."""
        key_ = object()
        with self._listening:
            self._listeners.setdefault(audience, {})[key_] = changed

        def stop() -> None:
            with self._listening:
                listeners = self._listeners.get(audience, {})
                listeners.pop(key_, None)
                if not listeners:
                    self._listeners.pop(audience, None)

        return stop

    def notify(self, audiences: Iterable[str]) -> None:
        """Calls those who listen to audiences that changed. Call it once the change can be read."""
        with self._listening:
            found = [tuple(self._listeners.get(audience, {}).values()) for audience in audiences]
        for listeners in found:
            for changed in listeners:
                changed()

    def close(self) -> None:
        """Calls all who listen."""
        with self._listening:
            audiences = tuple(self._listeners)
        self.notify(audiences)


def _add_named(named: dict[int, BitMap], record: ChangeRecord) -> None:
    """Adds the users whom a record names, by group."""
    for group, *bitmaps in record.groups:
        for stored in bitmaps:
            named[group] = named.get(group, BitMap()) | BitMap.deserialize(stored)
    for group, stored in record.updates:
        named[group] = named.get(group, BitMap()) | BitMap.deserialize(stored)
