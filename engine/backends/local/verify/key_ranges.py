"""Checks ranges of keys: the keys read have the number and hashes that their records announce."""

from __future__ import annotations

from collections.abc import Iterator

from engine.backends.local.storage.key_ranges import RANGES, ROOT_KEY, KeyCount
from engine.backends.local.storage.keys import Family, family_of
from engine.backends.local.verify.examination import Examination


def check_key_ranges(examination: Examination) -> Iterator[None]:
    """Runs last: every other checker has read its keys."""
    for txn in (examination.log, examination.index):
        announced: dict[bytes, KeyCount] = {}
        for _, stored, count in examination.values(Family.RANGE, KeyCount.unpack, txn):
            announced[RANGES if stored == ROOT_KEY else stored[1:]] = count
            yield
        for range_, found, expected in examination.key_counts[txn].differences(announced):
            family = family_of(range_)
            # Damaged keys were reported already and may be the ones missing here.
            if examination.is_sound(family, Family.RANGE):
                keys = f"{found.keys} keys; {expected.keys} are announced"
                if found.keys == expected.keys:
                    keys = f"{found.keys} keys, but not the announced ones"
                examination.fault(family, f"has {keys}", range_)
