"""Checks stored memberships and their change logs."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
from pyroaring import BitMap

from engine.backends.local.membership.change_log import ChangeRecord
from engine.backends.local.membership.erased import ErasedUser
from engine.backends.local.membership.states import StoredState
from engine.backends.local.storage.bitmaps import bitmap_of_mask
from engine.backends.local.storage.keys import Family, key
from engine.backends.local.storage.name_table import NO_ACCOUNT, Space
from engine.backends.local.storage.page_cache import BITMAP
from engine.backends.local.verify.examination import Examination, Sets

_state_decoder = msgspec.msgpack.Decoder(StoredState)
_record_decoder = msgspec.msgpack.Decoder(ChangeRecord)
_erased_decoder = msgspec.msgpack.Decoder(ErasedUser)


def check_memberships(examination: Examination) -> Iterator[None]:
    """Checks the size and the changes of each membership; ids of erased users are kept only for changes."""
    states: dict[int, tuple[bytes, StoredState]] = {}
    for _, stored, state in examination.values(Family.MEMBERSHIP, _state_decoder.decode):
        examination.expect(
            state.number not in states, Family.MEMBERSHIP, "shares its number with another membership", stored
        )
        states[state.number] = (stored, state)
        yield
    sizes = dict.fromkeys(states, 0)
    yield from _check_members(examination, states, sizes)
    erased: Sets = {}
    for (account, group, dense), stored, kept in examination.values(Family.ERASED, _erased_decoder.decode):
        erased.setdefault((account, group), BitMap()).add(dense)
        if examination.is_sound(Family.MEMBERSHIP):
            named = bool(kept.named_through) and kept.named_through.keys() <= states.keys()
            examination.expect(
                named and bool(kept.user_id), Family.ERASED, "is not needed by any change", stored
            )
        yield
    yield from _check_changes(examination, states, _nameless(examination, erased), sizes)
    _check_sizes(examination, states, sizes)


def _both(record: ChangeRecord) -> Iterator[tuple[BitMap, BitMap]]:
    """The entries and exits of each group."""
    for _, entered, exited in record.groups:
        yield BitMap.deserialize(entered), BitMap.deserialize(exited)


def _nameless(examination: Examination, erased: Sets) -> Sets:
    """By account and group, the users without an id, not even one kept for changes."""
    if not examination.is_sound(Family.ERASED, Family.USER_IDS, Family.USER_COUNT):
        return {}
    return {
        at: bitmap_of_mask(hashes == 0) - examination.set_of(erased, *at)
        for at, hashes in examination.user_hashes.items()
    }


def _check_members(
    examination: Examination, states: dict[int, tuple[bytes, StoredState]], sizes: dict[int, int]
) -> Iterator[None]:
    """Counts stored members by membership."""
    for (number, group), stored, users in examination.values(Family.MEMBERS, BITMAP.decode):
        sizes[number] = sizes.get(number, 0) + len(users)
        if number not in states and examination.is_sound(Family.MEMBERSHIP):
            examination.fault(Family.MEMBERS, "belongs to an unknown membership", stored)
        examination.expect(group < examination.groups, Family.MEMBERS, "belongs to an unknown group", stored)
        yield


def _check_sizes(
    examination: Examination, states: dict[int, tuple[bytes, StoredState]], sizes: dict[int, int]
) -> None:
    for number, (stored, state) in states.items():
        if examination.is_sound(Family.MEMBERS) and (
            not state.behind or examination.is_sound(Family.CHANGES)
        ):
            right = state.size == sizes[number]
            examination.expect(
                right, Family.MEMBERSHIP, f"records {state.size} members; there are {sizes[number]}", stored
            )
        balanced = state.size == state.entered_total - state.exited_total
        examination.expect(balanced, Family.MEMBERSHIP, "has a size that differs from its changes", stored)


def _check_changes(
    examination: Examination,
    states: dict[int, tuple[bytes, StoredState]],
    nameless: Sets,
    sizes: dict[int, int],
) -> Iterator[None]:
    """Checks that records cover the promised changes without a gap. Counts the entries and exits that stored
    members lack.
    """
    reached: dict[int, tuple[int, int]] = {}
    names = examination.names.get((Space.ACCOUNT, NO_ACCOUNT), {})
    accounts = {name: number for number, name in names.items()}
    for (number, start), stored, record in examination.values(Family.CHANGES, _record_decoder.decode):
        first, expected = reached.get(number, (start, start))
        if examination.is_sound(Family.CHANGES):
            examination.expect(start == expected, Family.CHANGES, f"does not follow {expected - 1}", stored)
        changed = [(group, BitMap.deserialize(users)) for group, *both in record.groups for users in both]
        changed += [(group, BitMap.deserialize(users)) for group, users in record.updates]
        reached[number] = (first, start + sum(len(users) for _, users in changed))
        state = states[number][1] if number in states else None
        if state is not None and start > state.last_sequence - state.behind:
            sizes[number] += sum(len(come) - len(gone) for come, gone in _both(record))
        # Users of an account made again are only in the log: the index numbers those of the old one.
        is_made_again = state is not None and state.account in examination.forgotten
        # The first changes of a partly trimmed record are never read.
        if state is not None and not is_made_again and state.first_sequence <= start:
            account = accounts.get(state.account, 0)
            gone = sum(len(users & examination.set_of(nameless, account, group)) for group, users in changed)
            examination.expect(not gone, Family.ERASED, f"lacks the ids of {gone} users", stored)
        yield
    if not examination.is_sound(Family.CHANGES, Family.MEMBERSHIP):
        return
    for number in reached.keys() - states.keys():
        examination.fault(Family.CHANGES, "belong to an unknown membership", key(Family.CHANGES, number, 0))
    for number, (stored, state) in states.items():
        first, end = reached.get(number, (state.last_sequence + 1, state.last_sequence + 1))
        whole = first <= state.first_sequence and end == state.last_sequence + 1
        description = f"promises changes {state.first_sequence} to {state.last_sequence}"
        examination.expect(whole, Family.CHANGES, f"{description}; there are {first} to {end - 1}", stored)
