"""What was seen before: event ids, and batches by their request id.

**Event ids.** The first 96 bits of an XXH3-128 digest of (account, input, event id) stand for the id: among a
billion ids that are remembered, the chance that any two share one is 6 in 10^12. Digests that arrived
since the last fold are a set in memory; a fold makes a sorted run of them (`engine.local.runs`).

An id is remembered for `DEDUPE_HORIZON_DAYS` after it arrived, and for up to a tenth longer, since a run is
dropped as a whole. Digests of erased users' events stay until then: a producer's late retry must not bring an
erased event back.

**Request ids** are remembered with the answer for `REQUEST_HORIZON_HOURS`.

Arrival times come from the log, never from the clock, so that replay decides as the first pass did.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import xxhash

from engine.backend import Appended
from engine.local.keys import Family, key
from engine.local.runs import Items, Run, RunForm, Runs
from engine.local.storage.environment import Environment
from engine.local.storage.transactions import ReadTransaction, Writable
from engine.values import MICROS_PER_DAY, MICROS_PER_HOUR, Micros

DEDUPE_HORIZON_DAYS = 30
REQUEST_HORIZON_HOURS = 24

DIGEST_BYTES = 12
RUN_SPAN_MAX_SHARE = 0.1

EVENT_ID_RUNS = RunForm(
    record=Family.DEDUPE_RUN,
    filter=Family.DEDUPE_FILTER,
    block=Family.DEDUPE_BLOCK,
    items=np.dtype([("high", ">u8"), ("low", ">u4")]),
)


def _items(digests: Sequence[bytes] | set[bytes]) -> Items:
    return np.frombuffer(b"".join(digests), EVENT_ID_RUNS.items)


class EventIds:
    """The event ids seen within the horizon, of the whole store."""

    def __init__(self, index: Environment, horizon_days: int = DEDUPE_HORIZON_DAYS) -> None:
        self._horizon = horizon_days * MICROS_PER_DAY
        self._fresh: set[bytes] = set()
        self._fresh_since: Micros = 0
        self._writing: set[bytes] = set()
        self._writing_since: Micros = 0
        self._runs = Runs(index, EVENT_ID_RUNS)

    def take(self, digests: Sequence[bytes], arrival: Micros) -> list[bool]:
        """For each digest, in order, whether it was seen before; all are seen from now on. Digests repeated
        within the sequence count.
        """
        old = self._in_runs(digests) if self._runs.all else frozenset()
        if not self._fresh:
            self._fresh_since = arrival
        fresh, writing = self._fresh, self._writing
        seen = []
        for digest in digests:
            repeated = digest in fresh or digest in writing or digest in old
            seen.append(repeated)
            if not repeated:
                fresh.add(digest)
        return seen

    def _in_runs(self, digests: Sequence[bytes]) -> frozenset[bytes]:
        found, _ = self._runs.find(EVENT_ID_RUNS.keys(_items(digests)))
        return frozenset(digests[at] for at in found.tolist())

    # --- folding ---

    def collect(self) -> None:
        """Sets the fresh digests apart for `write`, which needs no lock."""
        self._writing, self._fresh = self._fresh, set()
        self._writing_since = self._fresh_since

    def write(self, txn: Writable, arrival: Micros) -> None:
        """Writes what was collected as a run, and deletes runs past the horizon of `arrival`."""
        for run in self._runs.all:
            if run.record.last_arrival < arrival - self._horizon:
                self._runs.stage_drop(txn, run)
        if self._writing:
            self._runs.stage_new(txn, _items(self._writing), self._writing_since, arrival)

    def written(self) -> None:
        """What was collected is in the index."""
        self._runs.written()
        self._writing = set()

    def unwritten(self) -> None:
        """What was collected did not reach the index."""
        self._runs.unwritten()
        if self._writing:
            self._fresh |= self._writing
            self._fresh_since = self._writing_since
        self._writing = set()

    @property
    def runs(self) -> Runs:
        """What was folded, to be merged now and then."""
        return self._runs

    def mergeable(self) -> list[Run]:
        """Runs that are worth merging: of one tier, and not so far apart in time that ids stay much longer
        than the horizon.
        """
        return self._runs.mergeable(int(self._horizon * RUN_SPAN_MAX_SHARE))


def event_digests(account: int, inputs: Sequence[int], event_ids: Sequence[str]) -> list[bytes]:
    """The digests of event ids, each on the input of the same place."""
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


class Requests:
    """Answers by request id, within the horizon."""

    def __init__(self, index: Environment, horizon_hours: int = REQUEST_HORIZON_HOURS) -> None:
        self._index = index
        self._horizon = horizon_hours * MICROS_PER_HOUR
        self._fresh: dict[tuple[int, bytes], Answered] = {}
        self._writing: dict[tuple[int, bytes], Answered] = {}

    def find(self, account: int, request_id: str, arrival: Micros) -> Appended | None:
        """The first answer to the request, if it came within the horizon before `arrival`."""
        digest = xxhash.xxh3_128_digest(request_id.encode())
        answered = self._fresh.get((account, digest)) or self._writing.get((account, digest))
        if answered is None:
            with self._index.reading() as txn:
                stored = txn.get(key(Family.REQUEST, account, digest))
                if stored is None:
                    return None
                answered = msgspec.msgpack.decode(stored, type=Answered)
        return answered.answer if answered.arrival >= arrival - self._horizon else None

    def add(self, account: int, request_id: str, arrival: Micros, answer: Appended) -> None:
        """Remembers the first answer."""
        self._fresh[account, xxhash.xxh3_128_digest(request_id.encode())] = Answered(arrival, answer)

    def collect(self) -> None:
        """Sets the fresh answers apart for `write`, which needs no lock."""
        self._writing, self._fresh = self._fresh, {}

    def write(self, txn: Writable, arrival: Micros) -> None:
        """Writes what was collected, and deletes answers past the horizon of `arrival`."""
        for (account, digest), answered in sorted(self._writing.items()):
            txn.put(key(Family.REQUEST, account, digest), msgspec.msgpack.encode(answered))
            txn.put(key(Family.REQUEST_ARRIVAL, answered.arrival, account, digest), b"")
        with self._index.reading() as read:
            self._delete_old(txn, read, arrival - self._horizon)

    def _delete_old(self, txn: Writable, read: ReadTransaction, oldest: Micros) -> None:
        end = key(Family.REQUEST_ARRIVAL, max(0, oldest))
        for stored in read.keys(key(Family.REQUEST_ARRIVAL)):
            if stored >= end:
                break
            txn.delete(stored)
            account_and_digest = stored[len(end) :]
            account, digest = int.from_bytes(account_and_digest[:4], "big"), account_and_digest[4:]
            answered = read.get(key(Family.REQUEST, account, digest))
            # The same id may have been given a second answer since.
            is_old = answered is not None and msgspec.msgpack.decode(answered, type=Answered).arrival < oldest
            if is_old and (account, digest) not in self._writing:
                txn.delete(key(Family.REQUEST, account, digest))

    def written(self) -> None:
        """What was collected is in the index."""
        self._writing = {}

    def unwritten(self) -> None:
        """What was collected did not reach the index."""
        self._fresh = {**self._writing, **self._fresh}
        self._writing = {}
