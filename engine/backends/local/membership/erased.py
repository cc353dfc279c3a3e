"""Ids of erased users. They are kept apart while a stored change may still name them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import msgspec
from pyroaring import BitMap

from engine.backends.local.storage.keys import Family, key
from engine.backends.local.storage.transactions import ReadTransaction, Writable
from engine.backends.local.storage.user_ref import DENSE_MASK, GROUP_SHIFT, UserRef
from engine.values import Micros


class ErasedUser(msgspec.Struct, array_like=True):
    """The id of an erased user, the last change of each membership (by number) that may name it, and the time
    of erasure by the server's clock.
    """

    user_id: str
    named_through: dict[int, int]
    erased_at: Micros = 0


@dataclass(slots=True)
class Exits:
    """Erased users of an account whose exits are to be recorded: dense ids by group, and ids by user ref."""

    account: str
    account_number: int
    gone: dict[int, BitMap]
    users: dict[UserRef, str]
    erased_at: Micros
    is_closed: bool = False
    """Whether they are being recorded, so that none is added."""

    def closed(self) -> Exits:
        """These exits, to be recorded."""
        return replace(self, is_closed=True)

    def add(self, gone: Mapping[int, BitMap], users: Mapping[UserRef, str], erased_at: Micros) -> None:
        """Adds users. The ids of all are kept as if they had been erased when the last of them was."""
        for group, dense in gone.items():
            self.gone[group] = self.gone.get(group, BitMap(optimize=False)) | dense
        self.users.update(users)
        self.erased_at = max(self.erased_at, erased_at)


class Naming(NamedTuple):
    """A membership (by number), its last change, and the users that its stored changes name, by group."""

    number: int
    last: int
    users: Mapping[int, BitMap]


_NOBODY = BitMap()


class ErasedIds:
    """The ids that are kept. A method that takes a transaction only writes to it; after the commit, `written`
    makes the change visible.
    """

    def __init__(self, stored: ReadTransaction, waiting: Callable[[], Iterable[Exits]] = lambda: ()) -> None:
        """`waiting` gives the exits that are still to be recorded: their ids are not kept yet."""
        self._waiting = waiting
        self._erased: dict[bytes, ErasedUser] = {}
        self._naming: dict[int, deque[tuple[int, bytes]]] = {}
        """By membership (number), the last change that may name each erased user, ascending, and the user's
        key. An entry that the user's record does not have any more is skipped.
        """
        found = {
            key_: msgspec.msgpack.decode(value, type=ErasedUser)
            for key_, value in stored.scan(key(Family.ERASED))
        }
        self.written(found)
        for naming in self._naming.values():
            in_order = sorted(naming)
            naming.clear()
            naming.extend(in_order)

    def find(self, account_number: int, group: int, dense: int) -> str:
        """The id of an erased user that a stored change names."""
        erased = self._erased.get(key(Family.ERASED, account_number, group, dense))
        if erased is not None:
            return erased.user_id
        ref = group << GROUP_SHIFT | dense
        waiting = (exits for exits in self._waiting() if exits.account_number == account_number)
        return next(exits.users[ref] for exits in waiting if ref in exits.users)

    def named_through(self, number: int, before: Micros) -> int:
        """The last change of a membership (by number) that may name a user erased before an instant; 0 when
        there is none.
        """
        naming = self._naming.get(number, ())
        return max(
            (last for last, stored in naming if self._is_named(number, last, stored, before)), default=0
        )

    def keep(self, txn: Writable, exits: Exits, naming: Iterable[Naming]) -> dict[bytes, ErasedUser]:
        """Keeps the ids of those erased users whom a stored change names, through the last change of each
        membership that does. Returns the record of each id.
        """
        through: dict[UserRef, dict[int, int]] = {}
        for number, last, users in naming:
            for group, gone in exits.gone.items():
                for dense in gone & users.get(group, _NOBODY):
                    through.setdefault(group << GROUP_SHIFT | dense, {})[number] = last
        kept = {}
        for ref, named in through.items():
            stored = key(Family.ERASED, exits.account_number, ref >> GROUP_SHIFT, ref & DENSE_MASK)
            kept[stored] = ErasedUser(exits.users[ref], named, exits.erased_at)
            txn.put(stored, msgspec.msgpack.encode(kept[stored]))
        return kept

    def copy(self, txn: Writable, number: int, to: int) -> dict[bytes, ErasedUser]:
        """Keeps the ids that changes of a membership (by number) may name for a copy of it too. Returns their
        records.
        """
        kept = {}
        for last, stored in self._naming.get(number, ()):
            if self._is_named(number, last, stored):
                erased = self._erased[stored]
                named = {**erased.named_through, to: last}
                kept[stored] = ErasedUser(erased.user_id, named, erased.erased_at)
                txn.put(stored, msgspec.msgpack.encode(kept[stored]))
        return kept

    def drop(self, txn: Writable, through: Mapping[int, int]) -> dict[bytes, ErasedUser | None]:
        """Deletes ids of erased users that no stored change names, once the changes of each membership (by
        number) are consumed through a sequence. Returns the remaining record of each id.
        """
        remaining: dict[bytes, dict[int, int]] = {}
        for number, end in through.items():
            for stored in self._named_until(number, end):
                named = remaining.setdefault(stored, dict(self._erased[stored].named_through))
                del named[number]
        left: dict[bytes, ErasedUser | None] = {}
        for stored, named in remaining.items():
            erased = self._erased[stored]
            left[stored] = ErasedUser(erased.user_id, named, erased.erased_at) if named else None
            if named:
                txn.put(stored, msgspec.msgpack.encode(left[stored]))
            else:
                txn.delete(stored)
        return left

    def _named_until(self, number: int, end: int) -> Iterator[bytes]:
        """The users that changes of a membership up to `end`, and no later ones, may name."""
        for last, stored in self._naming.get(number, ()):
            if last > end:
                return
            if self._is_named(number, last, stored):
                yield stored

    def _is_named(self, number: int, last: int, stored: bytes, before: Micros | None = None) -> bool:
        erased = self._erased.get(stored)
        if erased is None or erased.named_through.get(number) != last:
            return False
        return before is None or erased.erased_at < before

    def written(self, records: Mapping[bytes, ErasedUser | None]) -> None:
        """Takes over the committed result of `keep` or `drop`."""
        changed: set[int] = set()
        for stored, erased in records.items():
            known = self._erased.pop(stored, None)
            named_before = {} if known is None else known.named_through
            changed |= named_before.keys()
            if erased is None:
                continue
            self._erased[stored] = erased
            for number, last in erased.named_through.items():
                if named_before.get(number) != last:
                    self._naming.setdefault(number, deque()).append((last, stored))
        for number in changed:
            self._forget_first(number)

    def _forget_first(self, number: int) -> None:
        """Removes the first entries of a membership that no record has any more."""
        naming = self._naming[number]
        while naming and not self._is_named(number, *naming[0]):
            naming.popleft()
        if not naming:
            del self._naming[number]
