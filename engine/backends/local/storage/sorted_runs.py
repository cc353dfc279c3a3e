"""Sorted runs: hashes on disk, looked up a batch at a time.

The indexes of event ids and user ids write the hashes added since the last checkpoint as one *run*: items
sorted by their first 64 bits, in blocks, with a Bloom filter that is kept in memory. A batch probes all
filters at once and reads only blocks that may hold one of its hashes. Runs of similar size are merged in the
background, so their number and the rewrites of an item grow with the logarithm of the number of items (the
log-structured merge tree of O'Neil et al., 1996).

An item has two parts; the second may end in a payload. Keys are items without payload: arrays of shape (n,
2), u64, with the payload bits zero.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from engine.backends.local.storage.arrays import Positions, ranges
from engine.backends.local.storage.arrays import runs as starts_of
from engine.backends.local.storage.environment import Environment
from engine.backends.local.storage.keys import Family, key, parts_of
from engine.backends.local.storage.transactions import ReadTransaction, Writable, missing_keys
from engine.errors import DataLoss
from engine.values import Micros

_log = logging.getLogger(__name__)

Keys: TypeAlias = npt.NDArray[np.uint64]
Items: TypeAlias = npt.NDArray[np.void]
"""Structured as the form says, with the fields `high` and `low`."""

BLOCK_BYTES = 65_512
"""Bytes of a block: 16 LMDB pages, minus the page header and the checksum."""
RUN_ITEMS_MAX = 4 << 20
RUNS_PER_TIER_MAX = 8
TIER_BITS = 3
"""Runs are of one tier when their sizes differ by less than a factor of about 2^3."""
FILTER_BITS_PER_ITEM = 16
FILTER_PROBES = 4


class RunForm(NamedTuple):
    """How one kind of runs is stored: its families, the type of an item, and how many bits of the second part
    are payload.
    """

    record: Family
    filter: Family
    block: Family
    items: np.dtype[np.void]
    payload_bits: int = 0

    def keys(self, items: Items) -> Keys:
        """The items without their payload."""
        keys = np.stack((items["high"], items["low"]), axis=1).astype(np.uint64)
        keys[:, 1] &= ~np.uint64((1 << self.payload_bits) - 1)
        return keys

    def items_of(self, stored: Iterable[bytes]) -> Items:
        """Concatenates stored items as bytes: numpy would convert them to native byte order."""
        return np.frombuffer(b"".join(stored), self.items)

    def sorted(self, items: Items) -> Items:
        """The items in the order of a run."""
        highs = items["high"].astype(np.uint64)
        order = np.argsort(highs)
        highs = highs[order]
        if (highs[1:] == highs[:-1]).any():
            order = np.lexsort((items["low"], items["high"]))
        return items[order]


class RunRecord(msgspec.Struct, array_like=True):
    """A stored run: number of items and the first part of each block's first item. For event ids also the
    first and last arrival, the account (0 = any), and the latest event time.
    """

    count: int
    fences: list[int]
    first_arrival: Micros = 0
    last_arrival: Micros = 0
    account: int = 0
    newest_event: Micros = 0


class Run:
    """A run and its filter in memory. `at`: the parts of its keys, ending with its number."""

    def __init__(self, form: RunForm, at: tuple[int, ...], record: RunRecord, bits: Keys) -> None:
        self.at = at
        self.record = record
        self.bits = bits
        self._form = form
        self._fences = np.array(record.fences, np.uint64)

    def may_hold(self, keys: Keys) -> npt.NDArray[np.bool_]:
        """False where a key is surely not in the run."""
        held = np.ones(len(keys), np.bool_)
        for bits in _filter_bits(keys, len(self.bits), self._form.payload_bits):
            held &= (self.bits[bits >> np.uint64(6)] >> (bits & np.uint64(63)) & np.uint64(1)).astype(
                np.bool_
            )
        return held

    def search(self, keys: Keys, txn: ReadTransaction) -> Iterator[_Hits]:
        """The hits of the keys, block by block."""
        highs = keys[:, 0]
        order = np.argsort(highs)
        # Equal first parts may span a block boundary.
        first = np.maximum(np.searchsorted(self._fences, highs[order], "left") - 1, 0)
        last = np.maximum(np.searchsorted(self._fences, highs[order], "right") - 1, 0)
        rows, blocks = np.repeat(order, last - first + 1), ranges(first, last - first + 1)
        by_block = np.argsort(blocks, kind="stable")
        rows, blocks = rows[by_block], blocks[by_block]
        for start, end in itertools.pairwise(starts_of(blocks).tolist()):
            block = int(blocks[start])
            items = self.block(block, txn)
            found, positions = _positions_in(items, keys[rows[start:end]], self._form.payload_bits)
            if len(found):
                yield _Hits(block, items, rows[start:end][found], positions)

    def block(self, number: int, txn: ReadTransaction) -> Items:
        """The items of a block, valid for the length of the transaction. Empty when the run was deleted after
        it was loaded. Raises DataLoss when the block is missing or damaged.
        """
        at = key(self._form.block, *self.at, number)
        stored = txn.get(at)
        if stored is None and txn.get(key(self._form.record, *self.at)) is not None:
            raise missing_keys(at)
        return np.frombuffer(b"" if stored is None else stored, self._form.items)

    def bytes(self, txn: ReadTransaction) -> bytes:
        """All items as they are stored."""
        return b"".join(self.block(block, txn).tobytes() for block in range(len(self.record.fences)))


class _Hits(NamedTuple):
    """Keys found in a block, and the positions of their items."""

    block: int
    items: Items
    rows: Positions
    positions: Positions


def _positions_in(items: Items, keys: Keys, payload_bits: int) -> tuple[Positions, Positions]:
    """The keys among sorted items and their positions; every position of a key with several items."""
    highs, lows = items["high"].astype(np.uint64), items["low"].astype(np.uint64)
    at = np.searchsorted(highs, keys[:, 0])
    left = np.arange(len(keys))
    found: list[Positions] = [left[:0]]
    positions: list[Positions] = [left[:0]]
    while True:
        left = left[at[left] < len(highs)]
        left = left[highs[at[left]] == keys[left, 0]]
        if not len(left):
            return np.concatenate(found), np.concatenate(positions)
        # One iteration is enough unless the first parts of two hashes are equal.
        hit = left[(lows[at[left]] ^ keys[left, 1]) >> np.uint64(payload_bits) == 0]
        found.append(hit)
        positions.append(at[hit])
        at[left] += 1


def _filter_bits(keys: Keys, words: int, payload_bits: int) -> Iterator[Keys]:
    """Filter bits of the keys, probe by probe. All hashes are derived from the two independent parts of a
    key.
    """
    hashes, step = keys[:, 0].copy(), keys[:, 1] >> np.uint64(payload_bits) | np.uint64(1)
    for _ in range(FILTER_PROBES):
        yield hashes % np.uint64(words * _WORD_BITS)
        hashes += step


def _filter_of(keys: Keys, payload_bits: int) -> Keys:
    words = max(1, len(keys) * FILTER_BITS_PER_ITEM // _WORD_BITS)
    flags = np.zeros(words * _WORD_BITS, np.bool_)
    for bits in _filter_bits(keys, words, payload_bits):
        flags[bits] = True
    return np.packbits(flags, bitorder="little").view(np.uint64)


_WORD_BITS = 64
_ALL_BITS = (1 << 64) - 1


class Runs:
    """All runs of one form under one prefix.

    A checkpoint stages what it adds, drops and removes; `commit` makes it effective. Lookups continue
    meanwhile. They may miss a staged removal's item early, which is harmless: the caller already knows that
    it is gone.
    """

    def __init__(
        self, index: Environment, form: RunForm, prefix: tuple[int, ...] = (), *, may_be_damaged: bool = False
    ) -> None:
        """Loads the runs, without their blocks. With `may_be_damaged`, records of runs that are damaged are
        kept in `damage` instead of raised; there are no runs then.
        """
        self._index = index
        self._form = form
        self._prefix = prefix
        self.all: list[Run] = []
        self._staged: dict[tuple[int, ...], Run | None] = {}
        self._unmergeable: set[tuple[int, ...]] = set()
        self._next_number = 1
        self.damage: DataLoss | None = None
        try:
            with index.reading() as txn:
                self.all.extend(self._load(txn))
        except DataLoss as damage:
            if not may_be_damaged:
                raise
            self.all, self.damage = [], damage
        if self.all:
            self._next_number = self.all[-1].at[-1] + 1

    def _load(self, txn: ReadTransaction) -> Iterator[Run]:
        for stored, value in txn.scan(key(self._form.record, *self._prefix)):
            at = tuple(map(int, parts_of(stored)))
            record = msgspec.msgpack.decode(value, type=RunRecord)
            yield Run(self._form, at, record, self._filter(txn, at))

    def _filter(self, txn: ReadTransaction, at: tuple[int, ...]) -> Keys:
        """The filter of a run. A damaged filter excludes nothing; the blocks decide."""
        stored = key(self._form.filter, *at)
        try:
            bits = txn.get(stored)
            if not bits:
                raise missing_keys(stored)
        except DataLoss as damage:
            _log.warning("all blocks of a run are read: %s", damage.message)
            return np.full(1, _ALL_BITS, np.uint64)
        return np.frombuffer(bytes(bits), np.uint64)

    def find(self, keys: Keys, among: Sequence[Run] | None = None) -> tuple[Positions, Keys]:
        """The keys that are in a run (of `among`, or of all), and the second parts of their items. A key in
        several runs is returned several times.
        """
        nothing = np.zeros(0, np.uint64)
        found: list[Positions] = [np.zeros(0, np.int64)]
        lows: list[Keys] = [nothing]
        candidates = [
            (run, np.flatnonzero(run.may_hold(keys))) for run in (self.all if among is None else among)
        ]
        if any(len(rows) for _, rows in candidates):
            with self._index.reading() as txn:
                for run, rows in candidates:
                    for hits in run.search(keys[rows], txn) if len(rows) else ():
                        found.append(rows[hits.rows])
                        lows.append(hits.items["low"][hits.positions].astype(np.uint64))
        return np.concatenate(found), np.concatenate(lows)

    @property
    def count(self) -> int:
        """Number of items."""
        return sum(run.record.count for run in self.all)

    def items(self) -> Items:
        """All items, in the order of the runs."""
        with self._index.reading() as txn:
            return self._form.items_of(run.bytes(txn) for run in self.all)

    # --- checkpointing --------------------------------------------------------------------------------------

    def stage_new(self, txn: Writable, items: Items, record: RunRecord | None = None) -> None:
        """Writes a run of items. `record`: its metadata without the figures of the items."""
        run = self._write(txn, self._form.sorted(items), record or RunRecord(0, []))
        self._staged[run.at] = run

    def stage_drop(self, txn: Writable, run: Run) -> None:
        """Deletes a run."""
        self._delete(txn, run)
        self._staged[run.at] = None

    def stage_removal(self, txn: Writable, removed: Items) -> None:
        """Removes items with exactly these payloads from their runs."""
        keys, lows = self._form.keys(removed), removed["low"]
        with self._index.reading() as read:
            for run in self.all:
                rows = np.flatnonzero(run.may_hold(keys))
                count, fences = run.record.count, list(run.record.fences)
                for hits in run.search(keys[rows], read) if len(rows) else ():
                    same = hits.items["low"][hits.positions] == lows[rows[hits.rows]]
                    kept = np.delete(hits.items, hits.positions[same])
                    txn.put(key(self._form.block, *run.at, hits.block), kept.tobytes())
                    count -= len(hits.items) - len(kept)
                    fences[hits.block] = int(kept["high"][0]) if len(kept) else fences[hits.block]
                if not count:
                    self.stage_drop(txn, run)
                elif count < run.record.count:
                    record = msgspec.structs.replace(run.record, count=count, fences=fences)
                    txn.put(key(self._form.record, *run.at), msgspec.msgpack.encode(record))
                    self._staged[run.at] = Run(self._form, run.at, record, run.bits)

    def commit(self) -> None:
        """Finishes a checkpoint that has committed."""
        runs = {run.at: run for run in self.all}
        for at, run in self._staged.items():
            if run is None:
                del runs[at]
            else:
                runs[at] = run
        self.all = list(runs.values())
        self._staged = {}

    def rollback(self) -> None:
        """Takes back a checkpoint that did not commit."""
        self._staged = {}

    def _write(self, txn: Writable, items: Items, about: RunRecord) -> Run:
        at = (*self._prefix, self._next_number)
        self._next_number += 1
        size = BLOCK_BYTES // self._form.items.itemsize
        starts = range(0, len(items), size)
        for block, start in enumerate(starts):
            txn.put(key(self._form.block, *at, block), items[start : start + size].tobytes())
        fences = [int(items["high"][start]) for start in starts]
        record = msgspec.structs.replace(about, count=len(items), fences=fences)
        bits = _filter_of(self._form.keys(items), self._form.payload_bits)
        txn.put(key(self._form.filter, *at), bits.tobytes())
        txn.put(key(self._form.record, *at), msgspec.msgpack.encode(record))
        return Run(self._form, at, record, bits)

    def _delete(self, txn: Writable, run: Run) -> None:
        txn.delete(key(self._form.record, *run.at))
        txn.delete(key(self._form.filter, *run.at))
        txn.delete_prefix(key(self._form.block, *run.at))

    def give_up(self, runs: Sequence[Run]) -> None:
        """Excludes these runs from further merges."""
        self._unmergeable |= {run.at for run in runs}

    # --- merging, in the background -------------------------------------------------------------------------

    def mergeable(self, span_max: Micros | None = None, among: Sequence[Run] | None = None) -> list[Run]:
        """Runs of one tier to merge that arrived within the span; empty when there are none. `among`:
        consider only these.
        """
        tiers: dict[int, list[Run]] = {}
        for run in self.all if among is None else among:
            if run.at in self._unmergeable:
                continue
            tiers.setdefault(run.record.count.bit_length() // TIER_BITS, []).append(run)
        for _, runs in sorted(tiers.items()):
            group = _fitting(sorted(runs, key=lambda run: run.record.first_arrival), span_max)
            if len(group) >= RUNS_PER_TIER_MAX:
                return group
        return []

    def merge(self, runs: Sequence[Run]) -> Run:
        """Merges several runs into a new one, in a transaction of its own, while no checkpoint runs. Needs no
        lock; `merged` then swaps them and `discard` deletes the old ones. After a crash in between some items
        are in two runs, which changes no answer.
        """
        with self._index.reading() as txn:
            items = self._form.sorted(self._form.items_of(run.bytes(txn) for run in runs))
        about = RunRecord(
            0,
            [],
            first_arrival=min(run.record.first_arrival for run in runs),
            last_arrival=max(run.record.last_arrival for run in runs),
            account=runs[0].record.account,
            newest_event=max(run.record.newest_event for run in runs),
        )
        with self._index.writing() as write:
            return self._write(write, items, about)

    def merged(self, runs: Sequence[Run], into: Run) -> None:
        """Swaps merged runs for the one they were merged into. Called with the state lock held."""
        self.all = [*(run for run in self.all if run not in runs), into]

    def discard(self, runs: Sequence[Run]) -> None:
        """Deletes runs that are no longer referenced."""
        with self._index.writing() as txn:
            for run in runs:
                self._delete(txn, run)


def _fitting(runs: Sequence[Run], span_max: Micros | None) -> list[Run]:
    """The leading runs that together are not too large and span not too much time."""
    group: list[Run] = []
    for run in runs:
        span = run.record.last_arrival - (group or [run])[0].record.first_arrival
        count = sum(each.record.count for each in group) + run.record.count
        if count <= RUN_ITEMS_MAX and (span_max is None or span <= span_max):
            group.append(run)
        elif len(group) >= RUNS_PER_TIER_MAX:
            break
        else:
            group = [run]
    return group
