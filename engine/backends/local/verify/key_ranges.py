"""Ranges of keys: as many keys were met, and with the same hashes, as their records announce."""

from __future__ import annotations

from collections.abc import Iterator

from engine.backends.local.storage.key_ranges import RANGES, ROOT_KEY, KeyCount
from engine.backends.local.storage.keys import Family, family_of
from engine.backends.local.verify.examination import Examination


def check_key_ranges(examination: Examination) -> Iterator[None]:
    """Every other checker has met its keys by now."""
    for txn in (examination.log, examination.index):
        announced: dict[bytes, KeyCount] = {}
        for _, stored, count in examination.values(Family.RANGE, KeyCount.unpack, txn):
            announced[RANGES if stored == ROOT_KEY else stored[1:]] = count
            yield
        for range_, found, expected in examination.key_counts[txn].differences(announced):
            family = family_of(range_)
            # What is damaged was told already, and may be what is missing here.
            if examination.is_sound(family, Family.RANGE):
                keys = f"{found.keys} keys where {expected.keys} are announced"
                if found.keys == expected.keys:
                    keys = f"{found.keys} keys, not the ones that are announced"
                examination.fault(family, f"has {keys}", range_)
