"""Checks deduplication: runs of event ids, and the answers to requests."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from engine.backends.local.storage.dedupe import EVENT_ID_RUNS, Answered
from engine.backends.local.storage.keys import Family, key
from engine.backends.local.verify.examination import Examination, as_is
from engine.backends.local.verify.runs import check_runs

_answered_decoder = msgspec.msgpack.Decoder(Answered)


def check_event_ids(examination: Examination) -> Iterator[None]:
    """Checks the runs of event ids."""
    yield from check_runs(examination, EVENT_ID_RUNS)


def check_requests(examination: Examination) -> Iterator[None]:
    """Checks that each answer can be found when it expires."""
    for (account, digest), stored, answered in examination.values(Family.REQUEST, _answered_decoder.decode):
        arrival = key(Family.REQUEST_ARRIVAL, answered.arrival, account, digest)
        examination.expect(
            examination.index.contains(arrival), Family.REQUEST, "would never be deleted", stored
        )
        yield
    for _ in examination.values(Family.REQUEST_ARRIVAL, as_is):
        yield
