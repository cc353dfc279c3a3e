"""Deduplication: event ids, and batches by their request id.

**Event ids.** An id is represented by the first 96 bits of an XXH3-128 digest of (account, input, event id).
Among a billion remembered ids, the probability that any two collide is 6 in 10^12. Digests that arrived since
the last checkpoint are a set in memory; a checkpoint writes them as a sorted run
(`engine.backends.local.storage.sorted_runs`).

An id is remembered for `DEDUPE_HORIZON_DAYS` after it arrived, or until its account's retention has removed
its event, whichever is sooner, but for at least one day. It may be kept up to a tenth longer, since runs are
dropped as a whole; so each account has its own runs. Digests of erased users' events are kept as long: a
producer's late retry must not restore an erased event.

**Request ids** are remembered with the answer for `REQUEST_HORIZON_HOURS`.

Arrival times come from the log, never from the clock, so a replay makes the same decisions.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass

import msgspec
import numpy as np
import xxhash

from engine.backends.base import Appended
from engine.backends.local.storage.environment import Environment
from engine.backends.local.storage.keys import Family, key
from engine.backends.local.storage.sorted_runs import Items, Run, RunForm, RunRecord, Runs
from engine.backends.local.storage.transactions import ReadTransaction, Writable
from engine.backends.local.storage.unwritten import Unwritten
from engine.clock import Stamp
from engine.errors import DataLoss
from engine.values import MICROS_PER_DAY, MICROS_PER_HOUR, TIME_MAX_MICROS, Micros

_log = logging.getLogger(__name__)

DEDUPE_HORIZON_DAYS = 30
REQUEST_HORIZON_HOURS = 24

IDS_KEPT_MIN = MICROS_PER_DAY
"""Minimum time an id is remembered after it arrived, however old its event."""

DIGEST_BYTES = 12
RUN_SPAN_MAX_SHARE = 0.1
RUNS_DROPPED_MAX = 64
REQUESTS_DROPPED_MAX = 50_000
MERGES_MAX = 16
"""Limits of one checkpoint. The next one continues."""

EVENT_ID_RUNS = RunForm(
    record=Family.DEDUPE_RUN,
    filter=Family.DEDUPE_FILTER,
    block=Family.DEDUPE_BLOCK,
    items=np.dtype([("high", ">u8"), ("low", ">u4")]),
)


DIGESTS_PER_PAUSE = 1 << 12
"""Ids that are looked up before others go first: about a millisecond."""

_ANY_ACCOUNT = 0
"""The account of runs that older builds wrote, which hold ids of all accounts."""


def _items(digests: Sequence[bytes] | set[bytes]) -> Items:
    return np.frombuffer(b"".join(digests), EVENT_ID_RUNS.items)


@dataclass(slots=True)
class _Fresh:
    """Digests of one account that arrived since the last checkpoint: first and last arrival, and the latest
    time of their events.
    """

    digests: set[bytes]
    first_arrival: Micros
    last_arrival: Micros
    newest_event: Micros

    def took(self, arrival: Micros, newest_event: Micros) -> None:
        self.first_arrival = min(self.first_arrival, arrival)
        self.last_arrival = max(self.last_arrival, arrival)
        self.newest_event = max(self.newest_event, newest_event)

    def joined(self, later: _Fresh) -> _Fresh:
        """These and others that arrived later."""
        return _Fresh(
            self.digests | later.digests,
            min(self.first_arrival, later.first_arrival),
            max(self.last_arrival, later.last_arrival),
            max(self.newest_event, later.newest_event),
        )


class DuplicatesUnknown(DataLoss):
    """Duplicates cannot be detected: the stored event ids are damaged. Nothing was changed."""


class EventIds(Unwritten[int, _Fresh]):
    """The event ids seen within the horizon, by account. New ones are unwritten."""

    def __init__(self, index: Environment, horizon_days: int = DEDUPE_HORIZON_DAYS) -> None:
        super().__init__(_Fresh.joined)
        self._horizon = horizon_days * MICROS_PER_DAY
        self._runs = Runs(index, EVENT_ID_RUNS, may_be_damaged=True)
        if self._runs.damage is not None:
            _log.error(
                "batches with event ids are refused, reads go on: %s; restore a backup",
                self._runs.damage.message,
            )
        self._expired: dict[int, Micros] = {}
        """By account, the instant up to which events were last removed, as far as this process knows."""

    def take(
        self,
        account: int,
        digests: Sequence[bytes],
        newest_event: Micros,
        stamp: Stamp,
        pause: Callable[[], None] = lambda: None,
    ) -> list[bool]:
        """For each digest, in order, whether it is a duplicate; records all of them. Repeats within the
        sequence count. `newest_event`: the latest time among their events. Calls `pause` now and then; no
        others may be taken meanwhile.
        """
        old = self._stored(account, digests, stamp)
        pause()
        writing = self._being_written(account)
        fresh = self.fresh.get(account)
        if fresh is None:
            fresh = self.fresh[account] = _Fresh(set(), stamp.arrival, stamp.arrival, newest_event)
        fresh.took(stamp.arrival, newest_event)
        seen = []
        for digest in digests:
            repeated = digest in fresh.digests or digest in writing or digest in old
            seen.append(repeated)
            if not repeated:
                fresh.digests.add(digest)
            if not len(seen) % DIGESTS_PER_PAUSE:
                pause()
        return seen

    def repeated(self, account: int, digests: Sequence[bytes], stamp: Stamp) -> list[bool]:
        """What `take` would answer. Records nothing."""
        old = self._stored(account, digests, stamp)
        writing = self._being_written(account)
        fresh = self.fresh[account].digests if account in self.fresh else frozenset()
        these: set[bytes] = set()
        seen = []
        for digest in digests:
            seen.append(digest in these or digest in fresh or digest in writing or digest in old)
            these.add(digest)
        return seen

    def _being_written(self, account: int) -> Set[bytes]:
        return self.writing[account].digests if account in self.writing else frozenset()

    def _stored(self, account: int, digests: Sequence[bytes], stamp: Stamp) -> frozenset[bytes]:
        try:
            return self._in_runs(account, digests, stamp.settled)
        except DataLoss as damage:
            raise DuplicatesUnknown(
                f"cannot tell whether these events are duplicates: {damage.message}; restore a backup",
                metadata=dict(damage.metadata),
            ) from damage

    def _in_runs(self, account: int, digests: Sequence[bytes], settled: Micros) -> frozenset[bytes]:
        if self._runs.damage is not None:
            raise self._runs.damage
        # Expired runs are ignored, whether or not a checkpoint has dropped them: a replay may meet the index
        # of a later checkpoint and must decide alike.
        runs = [
            run
            for run in self._runs.all
            if run.record.account in (account, _ANY_ACCOUNT) and not self._is_past(run, settled)
        ]
        if not runs:
            return frozenset()
        found, _ = self._runs.find(EVENT_ID_RUNS.keys(_items(digests)), runs)
        return frozenset(digests[at] for at in found.tolist())

    def _is_past(self, run: Run, settled: Micros) -> bool:
        record = run.record
        if record.last_arrival < settled - self._horizon:
            return True
        # All its events are older than the retention, so repeats are refused for their age.
        expired = self._expired.get(record.account)
        is_expired = expired is not None and record.newest_event < expired
        return is_expired and record.last_arrival < settled - IDS_KEPT_MIN

    def expire(self, account: int, before: Micros) -> None:
        """Drops ids of the account that belong only to events before an instant, which were removed."""
        self._expired[account] = max(before, self._expired.get(account, before))

    def forget(self, account: int) -> None:
        """Drops all ids of an account whose number is not used any more."""
        self.expire(account, TIME_MAX_MICROS + 1)

    # --- checkpointing ---

    def write(self, txn: Writable, stamp: Stamp) -> None:
        """Writes a run of collected digests for each account and deletes expired runs, at most
        `RUNS_DROPPED_MAX`.
        """
        past = (run for run in self._runs.all if self._is_past(run, stamp.settled))
        for run in itertools.islice(past, RUNS_DROPPED_MAX):
            self._runs.stage_drop(txn, run)
        for account, fresh in sorted(self.writing.items()):
            if fresh.digests:
                record = RunRecord(
                    0, [], fresh.first_arrival, fresh.last_arrival, account, fresh.newest_event
                )
                self._runs.stage_new(txn, _items(fresh.digests), record)

    def commit(self) -> None:
        """Finishes a checkpoint that has committed."""
        super().commit()
        self._runs.commit()

    def rollback(self) -> None:
        """Takes back a checkpoint that did not commit."""
        super().rollback()
        self._runs.rollback()

    @property
    def runs(self) -> Runs:
        """The runs on disk, merged from time to time."""
        return self._runs

    def mergeable(self) -> list[list[Run]]:
        """Groups of runs to merge: of one account and tier, and close enough in time that merging does not
        keep ids much longer. At most `MERGES_MAX`, accounts with most runs first.
        """
        by_account: dict[int, list[Run]] = {}
        for run in self._runs.all:
            by_account.setdefault(run.record.account, []).append(run)
        needs_compaction = sorted(by_account.items(), key=lambda item: -len(item[1]))
        groups = (
            self._runs.mergeable(self._span_max(account, runs), runs) for account, runs in needs_compaction
        )
        return list(itertools.islice(filter(None, groups), MERGES_MAX))

    def _span_max(self, account: int, runs: Sequence[Run]) -> Micros:
        """Largest difference in arrival of runs to be merged: a share of the time ids are kept."""
        kept = self._horizon
        if account in self._expired:
            newest = max(run.record.last_arrival for run in runs)
            kept = min(kept, max(MICROS_PER_DAY, newest - self._expired[account]))
        return int(kept * RUN_SPAN_MAX_SHARE)


def event_digests(account: int, inputs: Sequence[int], event_ids: Sequence[str]) -> list[bytes]:
    """The digests of event ids. Ids and inputs have the same length."""
    prefixes = {number: b"%d/%d/" % (account, number) for number in set(inputs)}
    digest = xxhash.xxh3_128_digest
    return [
        digest(prefixes[number] + event_id.encode())[:DIGEST_BYTES]
        for number, event_id in zip(inputs, event_ids, strict=True)
    ]


# --- requests -----------------------------------------------------------------------------------------------


class Answered(msgspec.Struct, frozen=True, array_like=True):
    """The first answer to a request, and when it arrived."""

    arrival: Micros
    answer: Appended


class Requests(Unwritten[tuple[int, bytes], Answered]):
    """Answers by request id, within the horizon. New ones are unwritten, by account and digest."""

    def __init__(self, index: Environment, horizon_hours: int = REQUEST_HORIZON_HOURS) -> None:
        super().__init__()
        self._index = index
        self._horizon = horizon_hours * MICROS_PER_HOUR

    def find(self, account: int, request_id: str, now: Micros) -> Appended | None:
        """The first answer to the request, if it came within the horizon before `now`."""
        digest = xxhash.xxh3_128_digest(request_id.encode())
        if (account, digest) in self:
            answered = self[account, digest]
        else:
            with self._index.reading() as txn:
                stored = txn.get(key(Family.REQUEST, account, digest))
                if stored is None:
                    return None
                answered = msgspec.msgpack.decode(stored, type=Answered)
        return answered.answer if answered.arrival >= now - self._horizon else None

    def add(self, account: int, request_id: str, arrival: Micros, answer: Appended) -> None:
        """Stores the first answer."""
        self.fresh[account, xxhash.xxh3_128_digest(request_id.encode())] = Answered(arrival, answer)

    def write(self, txn: Writable, now: Micros) -> None:
        """Writes collected answers and deletes expired ones, at most `REQUESTS_DROPPED_MAX`."""
        for (account, digest), answered in sorted(self.writing.items()):
            txn.put(key(Family.REQUEST, account, digest), msgspec.msgpack.encode(answered))
            txn.put(key(Family.REQUEST_ARRIVAL, answered.arrival, account, digest), b"")
        with self._index.reading() as read:
            self._delete_old(txn, read, now - self._horizon)

    def _delete_old(self, txn: Writable, read: ReadTransaction, oldest: Micros) -> None:
        end = key(Family.REQUEST_ARRIVAL, max(0, oldest))
        for stored in itertools.islice(read.keys(key(Family.REQUEST_ARRIVAL)), REQUESTS_DROPPED_MAX):
            if stored >= end:
                break
            txn.delete(stored)
            account_and_digest = stored[len(end) :]
            account, digest = int.from_bytes(account_and_digest[:4], "big"), account_and_digest[4:]
            answered = read.get(key(Family.REQUEST, account, digest))
            # The same id may have got a second answer meanwhile.
            is_old = answered is not None and msgspec.msgpack.decode(answered, type=Answered).arrival < oldest
            if is_old and (account, digest) not in self.writing:
                txn.delete(key(Family.REQUEST, account, digest))
