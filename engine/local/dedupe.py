"""What was seen before: event ids, and batches by their request id.

**Event ids.** The first 96 bits of an XXH3-128 digest of (account, input, event id) stand for the id: among a
billion ids that are remembered, the chance that any two share one is 6 in 10^12. Digests that arrived
since the last fold are a set in memory. A fold makes a sorted *run* of them; runs of similar size are merged
by the background thread, so that their number grows with the logarithm of the ids. A run lies in the store in
blocks, with a Bloom filter that is kept in memory: a batch is probed in all filters at once and only blocks
that may hold one of its digests are read.

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
import numpy.typing as npt
import xxhash

from engine.backend import Appended
from engine.local.environment import Environment, ReadTransaction, Writable
from engine.local.keys import Family, key
from engine.values import MICROS_PER_DAY, MICROS_PER_HOUR, Micros

DEDUPE_HORIZON_DAYS = 30
REQUEST_HORIZON_HOURS = 24

DIGEST_BYTES = 12
BLOCK_DIGESTS = 5_459
"""What fills 16 pages of LMDB, next to the page's header and the checksum."""
RUN_DIGESTS_MAX = 4 << 20
RUNS_PER_TIER_MAX = 8
RUN_SPAN_MAX_SHARE = 0.1
FILTER_BITS_PER_DIGEST = 16
FILTER_PROBES = 4

FENCE_BYTES = 8
"""The first 64 bits of a digest, by which blocks are found."""

Digests = npt.NDArray[np.uint64]
"""Shape (n, 2): the first 64 bits of each digest, and the others."""

_STORED = np.dtype([("high", ">u8"), ("low", ">u4")])


class RunRecord(msgspec.Struct, array_like=True):
    """A run as stored: how many digests, when the first and the last of them arrived, and the first 64 bits
    each block starts with.
    """

    count: int
    first_arrival: Micros
    last_arrival: Micros
    fences: list[int]


class Run:
    """A run and its filter in memory."""

    def __init__(self, number: int, record: RunRecord, bits: npt.NDArray[np.uint64]) -> None:
        self.number = number
        self.record = record
        self.bits = bits
        self.fences = np.array(record.fences, np.uint64)

    def may_hold(self, digests: Digests) -> npt.NDArray[np.bool_]:
        """False where a digest is surely not in the run."""
        words, masks = _filter_places(digests, len(self.bits))
        return np.asarray(((self.bits[words] & masks) == masks).all(axis=1))

    def holds(self, digest: bytes, txn: ReadTransaction) -> bool:
        """Whether the digest is in the run, exactly."""
        high = np.frombuffer(digest, _STORED)["high"].astype(np.uint64)[0]
        # Equal first bits may run across a block's edge.
        first = max(0, int(np.searchsorted(self.fences, high, "left")) - 1)
        last = int(np.searchsorted(self.fences, high, "right"))
        return any(self._block_holds(block, high, digest, txn) for block in range(first, last))

    def _block_holds(self, block: int, high: np.uint64, digest: bytes, txn: ReadTransaction) -> bool:
        stored = txn.get(key(Family.DEDUPE_BLOCK, self.number, block))
        if stored is None:
            return False
        highs = np.frombuffer(stored, _STORED)["high"]
        start, end = np.searchsorted(highs, high, "left"), np.searchsorted(highs, high, "right")
        return digest in {
            bytes(stored[at * DIGEST_BYTES : (at + 1) * DIGEST_BYTES]) for at in range(int(start), int(end))
        }


def _filter_places(digests: Digests, words: int) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """Which words of a filter a digest sets bits in, and the bits: shape (n, FILTER_PROBES)."""
    probes = np.arange(FILTER_PROBES, dtype=np.uint64)
    # Two independent parts make as many hashes as are needed.
    hashes = digests[:, :1] + probes * (digests[:, 1:] | np.uint64(1))
    bits = hashes % np.uint64(words * 64)
    return bits >> np.uint64(6), np.uint64(1) << (bits & np.uint64(63))


def _filter_of(digests: Digests) -> npt.NDArray[np.uint64]:
    bits = np.zeros(max(1, len(digests) * FILTER_BITS_PER_DIGEST // 64), np.uint64)
    words, masks = _filter_places(digests, len(bits))
    np.bitwise_or.at(bits, words.ravel(), masks.ravel())
    return bits


def digests_of(joined: bytes) -> Digests:
    """The digests in the blocks of a run."""
    stored = np.frombuffer(joined, _STORED)
    return np.stack((stored["high"], stored["low"]), axis=1).astype(np.uint64)


def _sorted(joined: bytes) -> bytes:
    digests = digests_of(joined)
    order = np.lexsort((digests[:, 1], digests[:, 0]))
    return np.frombuffer(joined, _STORED)[order].tobytes()


class EventIds:
    """The event ids seen within the horizon, of the whole store."""

    def __init__(self, index: Environment, horizon_days: int = DEDUPE_HORIZON_DAYS) -> None:
        self._index = index
        self._horizon = horizon_days * MICROS_PER_DAY
        self._fresh: set[bytes] = set()
        self._fresh_since: Micros = 0
        self._writing: set[bytes] = set()
        self._writing_since: Micros = 0
        self._runs: list[Run] = []
        self._added: Run | None = None
        self._expired: list[Run] = []
        self._next_run = 1
        with index.reading() as txn:
            for stored, value in txn.scan(key(Family.DEDUPE_RUN)):
                number = int.from_bytes(stored[1:], "big")
                record = msgspec.msgpack.decode(value, type=RunRecord)
                bits = txn.get(key(Family.DEDUPE_FILTER, number))
                self._runs.append(Run(number, record, np.frombuffer(bytes(bits or b""), np.uint64)))
                self._next_run = number + 1

    def take(self, digests: Sequence[bytes], arrival: Micros) -> list[bool]:
        """For each digest, in order, whether it was seen before; all are seen from now on. Digests repeated
        within the sequence count.
        """
        old = self._in_runs(digests) if self._runs else frozenset()
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
        array = digests_of(b"".join(digests))
        candidates = [(run, np.flatnonzero(run.may_hold(array))) for run in self._runs]
        found: set[bytes] = set()
        if any(len(places) for _, places in candidates):
            with self._index.reading() as txn:
                for run, places in candidates:
                    found.update(digests[at] for at in places.tolist() if run.holds(digests[at], txn))
        return frozenset(found)

    # --- folding ---

    def collect(self) -> None:
        """Sets the fresh digests apart for `write`, which needs no lock."""
        self._writing, self._fresh = self._fresh, set()
        self._writing_since = self._fresh_since

    def write(self, txn: Writable, arrival: Micros) -> None:
        """Writes what was collected as a run, and deletes runs past the horizon of `arrival`."""
        self._expired = [run for run in self._runs if run.record.last_arrival < arrival - self._horizon]
        for run in self._expired:
            _delete(txn, run)
        self._added = None
        if self._writing:
            joined = _sorted(b"".join(self._writing))
            self._added = self._write_run(txn, joined, self._writing_since, arrival)

    def written(self) -> None:
        """What was collected is in the index."""
        self._runs = [run for run in self._runs if run not in self._expired]
        if self._added is not None:
            self._runs.append(self._added)
        self._expired, self._added = [], None
        self._writing = set()

    def unwritten(self) -> None:
        """What was collected did not reach the index."""
        self._expired, self._added = [], None
        if self._writing:
            self._fresh |= self._writing
            self._fresh_since = self._writing_since
        self._writing = set()

    def _write_run(self, txn: Writable, joined: bytes, first: Micros, last: Micros) -> Run:
        number = self._next_run
        self._next_run += 1
        size = BLOCK_DIGESTS * DIGEST_BYTES
        fences = []
        for block, start in enumerate(range(0, len(joined), size)):
            txn.put(key(Family.DEDUPE_BLOCK, number, block), joined[start : start + size])
            fences.append(int.from_bytes(joined[start : start + FENCE_BYTES], "big"))
        record = RunRecord(len(joined) // DIGEST_BYTES, first, last, fences)
        bits = _filter_of(digests_of(joined))
        txn.put(key(Family.DEDUPE_FILTER, number), bits.tobytes())
        txn.put(key(Family.DEDUPE_RUN, number), msgspec.msgpack.encode(record))
        return Run(number, record, bits)

    # --- merging, in the background ---

    def mergeable(self) -> list[Run]:
        """Runs of one tier that are worth merging, oldest first; empty when there are none."""
        tiers: dict[int, list[Run]] = {}
        for run in self._runs:
            tiers.setdefault(run.record.count.bit_length() // 3, []).append(run)
        for _, runs in sorted(tiers.items()):
            group = self._fitting(sorted(runs, key=lambda run: run.record.first_arrival))
            if len(group) >= RUNS_PER_TIER_MAX:
                return group
        return []

    def _fitting(self, runs: list[Run]) -> list[Run]:
        group: list[Run] = []
        for run in runs:
            spans = run.record.last_arrival - (group or [run])[0].record.first_arrival
            count = sum(each.record.count for each in group) + run.record.count
            if count <= RUN_DIGESTS_MAX and spans <= self._horizon * RUN_SPAN_MAX_SHARE:
                group.append(run)
            elif len(group) >= RUNS_PER_TIER_MAX:
                break
            else:
                group = [run]
        return group

    def merge(self, runs: Sequence[Run]) -> Run:
        """Writes one run that holds what several do, in a transaction of its own. Runs are immutable, so this
        needs no lock; `merged` then swaps them and `discard` deletes them. A crash in between leaves digests
        in two runs, which changes no answer.
        """
        with self._index.reading() as txn:
            joined = b"".join(
                bytes(block) for run in runs for _, block in txn.scan(key(Family.DEDUPE_BLOCK, run.number))
            )
        first = min(run.record.first_arrival for run in runs)
        last = max(run.record.last_arrival for run in runs)
        with self._index.writing() as write:
            return self._write_run(write, _sorted(joined), first, last)

    def merged(self, runs: Sequence[Run], into: Run) -> None:
        """Swaps merged runs for the one they were merged into. Called with the state lock held."""
        self._runs = [run for run in self._runs if run not in runs]
        self._runs.append(into)

    def discard(self, runs: Sequence[Run]) -> None:
        """Deletes runs that nothing refers to any more."""
        with self._index.writing() as txn:
            for run in runs:
                _delete(txn, run)


def _delete(txn: Writable, run: Run) -> None:
    txn.delete(key(Family.DEDUPE_RUN, run.number))
    txn.delete(key(Family.DEDUPE_FILTER, run.number))
    txn.delete_prefix(key(Family.DEDUPE_BLOCK, run.number))


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
