"""The sample data as a world of a million users: every household of the dataset copied under new ids.

A copy has the household's profile, all of its campaigns and coupons, and its first purchases; with all 1.46
million purchases it would have six hundred million events. Copies of one household are true for the same
criteria, and as their ids are hashed each by itself, a sample takes them or leaves them independently.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np

from engine.backends.base import EventRecord, Record, UserRecord
from engine.backends.local.backend import LocalBackend
from engine.backends.local.settings import LocalSettings
from engine.criteria.model import (
    Bucket,
    Compare,
    Criterion,
    Equals,
    Event,
    UserAttribute,
    WhereAttribute,
)
from milepost.sample import dataset
from tests.bench.marketing_world import FILLING_CHECKPOINT_RECORDS, FILLING_CHECKPOINT_S
from tests.sample_store import ACCOUNT, INPUTS, sample_batches

PURCHASES_KEPT = 1
SALTS = ("north", "south", "east", "west")

__all__ = ["ACCOUNT", "INPUTS", "SampleWorld", "open_backend"]


class SampleWorld:
    """Questions about the copied sample: campaigns, coupons, purchases, profiles and buckets."""

    def __init__(self, records: list[Record]) -> None:
        self._attributes = sorted(
            {
                (key, value)
                for record in records
                if isinstance(record, UserRecord)
                for key, value in record.attributes.items()
                if isinstance(value, str)
            }
        )
        self._events = sorted(
            {
                (record.name, key, value)
                for record in records
                if isinstance(record, EventRecord)
                for key, value in record.attributes.items()
                if isinstance(value, str) and key != "basket"
            }
        )

    def predicate(self, random: np.random.Generator) -> Criterion:
        """A single criterion."""
        match int(random.integers(0, 4)):
            case 0:
                key, value = self._attributes[int(random.integers(0, len(self._attributes)))]
                return UserAttribute(key=key, test=Equals(value))
            case 1:
                name, key, value = self._events[int(random.integers(0, len(self._events)))]
                return Event(name=name, where=WhereAttribute(key=key, test=Equals(value)))
            case 2:
                name = str(random.choice((dataset.CAMPAIGN_RECEIVED, dataset.COUPON_REDEEMED)))
                return Event(name=name, test=Compare("greater_or_equal", float(random.integers(1, 9))))
            case _:
                width = float(np.exp(random.uniform(np.log(0.01), np.log(99))))
                low = random.uniform(0, 100 - width)
                return Bucket(salt=str(random.choice(SALTS)), from_percent=low, to_percent=low + width)


def open_backend(directory: Path, copies: int) -> tuple[LocalBackend, SampleWorld]:
    """The store with a number of copies in `directory`, filled if necessary."""
    records = list(_kept())
    store, mark = directory / f"sample-{copies}", directory / f"sample-{copies}.filled"
    settings = LocalSettings(checkpoint_records=FILLING_CHECKPOINT_RECORDS, checkpoint_s=FILLING_CHECKPOINT_S)
    directory.mkdir(parents=True, exist_ok=True)
    backend = LocalBackend.open(store, settings=settings)
    if not mark.exists():
        for copy in range(copies):
            backend.append(ACCOUNT, [_copied(record, copy) for record in records])
        backend.checkpoint()
        mark.touch()
    return backend, SampleWorld(records)


def _kept() -> Iterator[Record]:
    purchases: Counter[str] = Counter()
    for batch in sample_batches():
        for record in batch:
            if isinstance(record, EventRecord) and record.name == dataset.PURCHASE:
                purchases[record.user_id] += 1
                if purchases[record.user_id] > PURCHASES_KEPT:
                    continue
            yield record


def _copied(record: Record, copy: int) -> Record:
    user_id = f"{record.user_id}-{copy}"
    if isinstance(record, EventRecord):
        return msgspec.structs.replace(record, user_id=user_id, event_id="")
    return msgspec.structs.replace(record, user_id=user_id)
