"""What was seen before: runs of event ids, and the answers to requests."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

import msgspec
import numpy as np
import numpy.typing as npt

from engine.local.dedupe import DIGEST_BYTES, FENCE_BYTES, Answered, Run, RunRecord, digests_of
from engine.local.keys import Family, key
from engine.local.verify.examination import Examination, Found, as_is

_run_decoder = msgspec.msgpack.Decoder(RunRecord)
_answered_decoder = msgspec.msgpack.Decoder(Answered)


def _filter_bits(value: memoryview) -> npt.NDArray[np.uint64]:
    return np.frombuffer(bytes(value), np.uint64)


def _block(value: memoryview) -> memoryview:
    if not len(value) or len(value) % DIGEST_BYTES:
        raise ValueError(f"{len(value)} bytes are no digests")
    return value


def check_event_ids(examination: Examination) -> Iterator[None]:
    """Runs are sorted, whole, found by their filters, and there is nothing beside them."""
    runs = {}
    for (number,), _, record in examination.values(Family.DEDUPE_RUN, _run_decoder.decode):
        runs[number] = record
        yield
    filters = {}
    for (number,), stored, bits in examination.values(Family.DEDUPE_FILTER, _filter_bits):
        filters[number] = bits
        known = number in runs or not examination.is_sound(Family.DEDUPE_RUN)
        examination.expect(known, Family.DEDUPE_FILTER, "is of no run", stored)
        yield
    blocks = examination.values(Family.DEDUPE_BLOCK, _block)
    compare = examination.is_sound(Family.DEDUPE_RUN, Family.DEDUPE_FILTER)
    seen = set()
    for number, group in groupby(blocks, lambda found: int(found.parts[0])):
        seen.add(number)
        whole = list(group)
        if compare and examination.is_sound(Family.DEDUPE_BLOCK):
            _check_run(examination, number, runs.get(number), filters.get(number), whole)
        yield
    if compare and examination.is_sound(Family.DEDUPE_BLOCK):
        for number in runs.keys() - seen:
            examination.fault(Family.DEDUPE_BLOCK, "of the run are gone", key(Family.DEDUPE_RUN, number))


def _check_run(
    examination: Examination,
    number: int,
    record: RunRecord | None,
    bits: npt.NDArray[np.uint64] | None,
    blocks: list[Found[memoryview]],
) -> None:
    stored = key(Family.DEDUPE_RUN, number)
    if record is None:
        examination.fault(Family.DEDUPE_BLOCK, "are of no run", stored)
        return
    if bits is None or not len(bits):
        examination.fault(Family.DEDUPE_FILTER, "is gone", stored)
        return
    digests = digests_of(b"".join(bytes(found.value) for found in blocks))
    in_order = [found.parts[1] for found in blocks] == list(range(len(record.fences)))
    whole = in_order and len(digests) == record.count
    examination.expect(whole, Family.DEDUPE_BLOCK, f"hold {len(digests)} of {record.count} ids", stored)
    high, low = digests[:, 0], digests[:, 1]
    ascending = (high[1:] > high[:-1]) | ((high[1:] == high[:-1]) & (low[1:] >= low[:-1]))
    examination.expect(bool(ascending.all()), Family.DEDUPE_BLOCK, "are not sorted", stored)
    fences = [int.from_bytes(bytes(found.value[:FENCE_BYTES]), "big") for found in blocks]
    examination.expect(fences == record.fences, Family.DEDUPE_RUN, "says other blocks", stored)
    held = Run(number, record, bits).may_hold(digests)
    examination.expect(bool(held.all()), Family.DEDUPE_FILTER, "does not know all ids of its run", stored)
    ordered = record.first_arrival <= record.last_arrival
    examination.expect(ordered, Family.DEDUPE_RUN, "ended before it began", stored)


def check_requests(examination: Examination) -> Iterator[None]:
    """Each answer can be found when its time is over."""
    for (account, digest), stored, answered in examination.values(Family.REQUEST, _answered_decoder.decode):
        arrival = key(Family.REQUEST_ARRIVAL, answered.arrival, account, digest)
        examination.expect(
            examination.index.contains(arrival), Family.REQUEST, "would never be deleted", stored
        )
        yield
    for _ in examination.values(Family.REQUEST_ARRIVAL, as_is):
        yield
