"""Checks first and last seen times per input."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from engine.backends.local.storage.bitmaps import bitmap_of
from engine.backends.local.storage.keys import Family, key
from engine.backends.local.storage.name_table import Space
from engine.backends.local.storage.page_cache import (
    ABSENT_TIME,
    BITMAP,
    PAGE_BITS,
    PAGE_USERS,
    SEEN_TIMES,
    as_numpy,
)
from engine.backends.local.verify.examination import Examination, Sets


def check_seen(examination: Examination) -> Iterator[None]:
    """Checks that exactly the users of an input have first and last times for it, and that they are alive."""
    for (account, input_number, group), stored, users in examination.values(Family.BELONGS, BITMAP.decode):
        examination.belongs[account, input_number, group] = users
        if examination.is_sound(Family.ALIVE):
            gone = users - examination.set_of(examination.alive, account, group)
            examination.expect(not gone, Family.BELONGS, f"has {len(gone)} erased users", stored)
        if examination.is_sound(Family.NAME):
            named = input_number in examination.names.get((Space.INPUT, account), {})
            examination.expect(named, Family.BELONGS, "belongs to an unnamed input", stored)
        yield
    with_times: Sets = {}
    for (account, input_number, group, page), stored, column in examination.values(
        Family.SEEN, SEEN_TIMES.decode
    ):
        first, last = as_numpy(column).reshape(2, PAGE_USERS)
        there = first != ABSENT_TIME
        right = bool(((first <= last) & (there == (last != ABSENT_TIME))).all())
        examination.expect(right, Family.SEEN, "has last times before first times", stored)
        users = bitmap_of(np.flatnonzero(there) + (page << PAGE_BITS))
        with_times.setdefault((account, input_number, group), users).update(users)
        yield
    if examination.is_sound(Family.BELONGS, Family.SEEN):
        for numbers in examination.belongs.keys() | with_times.keys():
            differ = examination.set_of(examination.belongs, *numbers) ^ examination.set_of(
                with_times, *numbers
            )
            stored = key(Family.BELONGS, *numbers)
            examination.expect(
                not differ, Family.SEEN, f"has {len(differ)} missing or superfluous users", stored
            )
