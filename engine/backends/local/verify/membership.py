"""Stored memberships and their change logs."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
from pyroaring import BitMap

from engine.backends.local.membership.store import ChangeRecord, ErasedUser, StoredState
from engine.backends.local.storage.bitmaps import bitmap_of_mask
from engine.backends.local.storage.keys import Family, key
from engine.backends.local.storage.name_table import NO_ACCOUNT, Space
from engine.backends.local.storage.page_cache import BITMAP
from engine.backends.local.verify.examination import Examination, Sets

_state_decoder = msgspec.msgpack.Decoder(StoredState)
_record_decoder = msgspec.msgpack.Decoder(ChangeRecord)
_erased_decoder = msgspec.msgpack.Decoder(ErasedUser)


def check_memberships(examination: Examination) -> Iterator[None]:
    """A membership has the size and the changes it says; ids of erased users are kept for changes only."""
    states: dict[int, tuple[bytes, StoredState]] = {}
    for _, stored, state in examination.values(Family.MEMBERSHIP, _state_decoder.decode):
        examination.expect(state.number not in states, Family.MEMBERSHIP, "shares its number", stored)
        states[state.number] = (stored, state)
        yield
    yield from _check_members(examination, states)
    erased: Sets = {}
    for (account, group, dense), stored, kept in examination.values(Family.ERASED, _erased_decoder.decode):
        erased.setdefault((account, group), BitMap()).add(dense)
        if examination.is_sound(Family.MEMBERSHIP):
            named = bool(kept.named_through) and kept.named_through.keys() <= states.keys()
            examination.expect(named and bool(kept.user_id), Family.ERASED, "is kept for nothing", stored)
        yield
    yield from _check_changes(examination, states, _nameless(examination, erased))


def _nameless(examination: Examination, erased: Sets) -> Sets:
    """By account and group, who has no id any more, not even one that is kept for changes."""
    if not examination.is_sound(Family.ERASED, Family.USER_IDS, Family.USER_COUNT):
        return {}
    return {
        at: bitmap_of_mask(hashes == 0) - examination.set_of(erased, *at)
        for at, hashes in examination.user_hashes.items()
    }


def _check_members(examination: Examination, states: dict[int, tuple[bytes, StoredState]]) -> Iterator[None]:
    sizes = dict.fromkeys(states, 0)
    for (number, group), stored, users in examination.values(Family.MEMBERS, BITMAP.decode):
        sizes[number] = sizes.get(number, 0) + len(users)
        if number not in states and examination.is_sound(Family.MEMBERSHIP):
            examination.fault(Family.MEMBERS, "is of no membership", stored)
        examination.expect(group < examination.groups, Family.MEMBERS, "is of no group", stored)
        yield
    for number, (stored, state) in states.items():
        if examination.is_sound(Family.MEMBERS):
            right = state.size == sizes[number]
            examination.expect(
                right, Family.MEMBERSHIP, f"says {state.size} members; there are {sizes[number]}", stored
            )
        balanced = state.size == state.entered_total - state.exited_total
        examination.expect(balanced, Family.MEMBERSHIP, "has another size than its changes say", stored)


def _check_changes(
    examination: Examination, states: dict[int, tuple[bytes, StoredState]], nameless: Sets
) -> Iterator[None]:
    """Records follow each other without a gap, from the first change that is promised to the last."""
    reached: dict[int, tuple[int, int]] = {}
    names = examination.names.get((Space.ACCOUNT, NO_ACCOUNT), {})
    accounts = {name: number for number, name in names.items()}
    for (number, start), stored, record in examination.values(Family.CHANGES, _record_decoder.decode):
        first, expected = reached.get(number, (start, start))
        if examination.is_sound(Family.CHANGES):
            examination.expect(start == expected, Family.CHANGES, f"does not follow {expected - 1}", stored)
        changed = [(group, BitMap.deserialize(users)) for group, *both in record.groups for users in both]
        reached[number] = (first, start + sum(len(users) for _, users in changed))
        state = states[number][1] if number in states else None
        # Of a record that is forgotten in part nobody asks for the first names.
        if state is not None and state.first_sequence <= start:
            account = accounts.get(state.account, 0)
            gone = sum(len(users & examination.set_of(nameless, account, group)) for group, users in changed)
            examination.expect(not gone, Family.ERASED, f"misses the ids of {gone} users", stored)
        yield
    if not examination.is_sound(Family.CHANGES, Family.MEMBERSHIP):
        return
    for number in reached.keys() - states.keys():
        examination.fault(Family.CHANGES, "are of no membership", key(Family.CHANGES, number, 0))
    for number, (stored, state) in states.items():
        first, end = reached.get(number, (state.last_sequence + 1, state.last_sequence + 1))
        whole = first <= state.first_sequence and end == state.last_sequence + 1
        description = f"promises changes {state.first_sequence} to {state.last_sequence}"
        examination.expect(whole, Family.CHANGES, f"{description}; there are {first} to {end - 1}", stored)
