"""The change log of each stored membership: which users entered and exited, in order.

There is one record per refresh, with the bitmaps of users that entered and exited, so a million entries cost
little. Within a record, changes are numbered group by group, entries before exits, ascending. A change that a
consumer has read is never renumbered.
"""

from __future__ import annotations

import bisect
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import msgspec
from pyroaring import BitMap

from engine.backends.base import Change, ChangePage
from engine.backends.local.account.people import People
from engine.backends.local.membership.erased import ErasedIds
from engine.backends.local.membership.states import Changes, GroupChanges, States, StoredState
from engine.backends.local.storage.environment import Environment
from engine.backends.local.storage.keys import Family, key
from engine.backends.local.storage.transactions import ReadTransaction, Writable
from engine.criteria.words import instant_in_words
from engine.errors import CursorExpired
from engine.values import Micros

CHANGES_RETAINED_MAX = 5_000_000
"""Changes kept for each audience, at least. Whole records beyond this number are deleted after a refresh."""
SURPLUS_SHARE = 50
"""Records are deleted once they have this fraction of the changes that are kept: few refreshes delete."""

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


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(ChangeRecord)


class _Instant(msgspec.Struct, frozen=True, array_like=True):
    """The beginning of a `ChangeRecord`."""

    as_of: Micros


class ChangeLog:
    """The change logs of all stored memberships. A method that takes a transaction only writes to it; after
    the commit, `written` makes what was added visible, and `notify` calls those who listen.
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

    def append(self, txn: Writable, state: StoredState, changes: Changes, as_of: Micros) -> int | None:
        """Writes a record of changes, if there are any. Updates the sequences and totals of the state.
        Returns the start of the record.
        """
        if not changes:
            return None
        entered, exited = changes.entered, changes.exited
        start = self._put(txn, state, _encoded(changes, as_of), entered + exited)
        for named in self._named_by(state.number):
            for group, come, gone in changes.groups:
                named[group] = named.get(group, _NOBODY) | come | gone
        state.size += entered - exited
        state.entered_total += entered
        state.exited_total += exited
        return start

    def append_updates(
        self, txn: Writable, state: StoredState, updates: Mapping[int, BitMap], as_of: Micros
    ) -> int:
        """As `append`, for members whose opted-in values have changed, by group."""
        stored = tuple((group, users.serialize()) for group, users in sorted(updates.items()))
        record = _encoder.encode(ChangeRecord(as_of, (), stored))
        start = self._put(txn, state, record, sum(map(len, updates.values())))
        for named in self._named_by(state.number):
            for group, users in updates.items():
                named[group] = named.get(group, _NOBODY) | users
        return start

    def _put(self, txn: Writable, state: StoredState, record: bytes, changes: int) -> int:
        start = state.last_sequence + 1
        txn.put(key(Family.CHANGES, state.number, start), record)
        state.last_sequence += changes
        return start

    def _starts(self, state: StoredState) -> list[int]:
        return self._records.setdefault(state.number, [])

    def written(self, state: StoredState, start: int) -> None:
        """Takes over the record that `append` has written, once it is committed."""
        self._starts(state).append(start)

    def copied(self, state: StoredState, starts: Sequence[int]) -> None:
        """Takes over the records that `copy` has written, once they are committed."""
        self._records[state.number] = [*starts]

    def surplus(self, state: StoredState) -> int:
        """The sequence through which changes are to be trimmed, as more than enough remain; 0: none are."""
        starts = self._starts(state)
        kept_from = state.last_sequence - self._retained_max + 1
        if not starts or kept_from - starts[0] < self._retained_max // SURPLUS_SHARE:
            return 0
        # The last record that begins there or before.
        at = bisect.bisect_right(starts, kept_from) - 1
        return starts[at] - 1 if at > 0 else 0

    def trim(self, txn: Writable, state: StoredState, through: int) -> list[int]:
        """Deletes records whose changes all have sequences up to and including `through`, and forgets them.
        Returns their starts, for `put_back` when the transaction fails.
        """
        starts = self._starts(state)
        # A record ends before the next one begins.
        count = bisect.bisect_right(starts, through + 1) - 1 if through < state.last_sequence else len(starts)
        trimmed = starts[: max(0, count)]
        for start in trimmed:
            txn.delete(key(Family.CHANGES, state.number, start))
        if trimmed:
            self._named.pop(state.number, None)
        del starts[: len(trimmed)]
        return trimmed

    def put_back(self, state: StoredState, starts: list[int]) -> None:
        """The first records, which `trim` or `forget` has forgotten, are still there."""
        self._records[state.number] = [*starts, *self._records.get(state.number, ())]

    def copy(
        self, txn: Writable, stored: ReadTransaction, state: StoredState, number: int, after: int
    ) -> list[int] | None:
        """Writes the records with changes above `after` for another membership (number). Returns their
        starts; None, with nothing written, when they are too many or too large.
        """
        starts = self._starts(state)
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

    def delete(self, txn: Writable, state: StoredState) -> None:
        """Deletes the change log of a membership."""
        txn.delete_prefix(key(Family.CHANGES, state.number))

    def forget(self, state: StoredState) -> list[int]:
        """Forgets a change log that is being deleted. Returns the starts of its records, for `put_back`."""
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
                        _add_named(naming[1], _decoder.decode(stored))
            self._named[number] = naming[1]
        finally:
            self._naming = [each for each in self._naming if each is not naming]

    def named(self, state: StoredState) -> Mapping[int, BitMap]:
        """The users, by group, whom stored changes of the membership name."""
        self.find_named(state)
        return self._named[state.number]

    def _named_by(self, number: int) -> list[dict[int, BitMap]]:
        """Who is to be told whom a new record of a membership (number) names."""
        if not self._naming and number not in self._named:
            return []
        known = [naming for other, naming in self._naming if other == number]
        return [*known, self._named[number]] if number in self._named else known

    # --- reading ---

    def latest(self, state: StoredState) -> Iterator[GroupChanges]:
        """The changes that the stored members of a state lack, in order."""
        starts = self._starts(state)
        first = bisect.bisect_right(starts, state.last_sequence - state.behind)
        for start in starts[first:]:
            for group, entered, exited in self._record(state, start).groups:
                yield GroupChanges(group, BitMap.deserialize(entered), BitMap.deserialize(exited))

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
        starts = self._starts(state)
        first = max(0, bisect.bisect_right(starts, after + 1) - 1)
        for at in range(first, len(starts)):
            if len(found) >= limit or account is None:
                break
            start, end = starts[at], starts[at + 1] - 1 if at + 1 < len(starts) else state.last_sequence
            record = self._record(state, start)
            found += self._of_record(account, record, start, end, after, limit - len(found))
        last = found[-1].sequence if found else after
        return ChangePage(tuple(found), last >= state.last_sequence, state.as_of)

    def _record(self, state: StoredState, start: int) -> ChangeRecord:
        with self._index.reading() as txn:
            return _decoder.decode(txn.get(key(Family.CHANGES, state.number, start)) or b"")

    def sequence_at(self, audience: str, instant: Micros) -> int:
        """Sequence of the last change up to an instant; 0 when there is none."""
        state = self._states.get(audience)
        starts = self._starts(state)
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


_NOBODY = BitMap()


def _encoded(changes: Changes, as_of: Micros) -> bytes:
    """The record of changes as of an instant: made once for all memberships that change alike."""
    if changes.encoded is None or changes.encoded[0] != as_of:
        groups = tuple([(group, come.serialize(), gone.serialize()) for group, come, gone in changes.groups])
        changes.encoded = as_of, _encoder.encode(ChangeRecord(as_of, groups))
    return changes.encoded[1]


def _add_named(named: dict[int, BitMap], record: ChangeRecord) -> None:
    """Adds the users whom a record names, by group."""
    for group, *bitmaps in record.groups:
        for stored in bitmaps:
            named[group] = named.get(group, _NOBODY) | BitMap.deserialize(stored)
    for group, stored in record.updates:
        named[group] = named.get(group, _NOBODY) | BitMap.deserialize(stored)
