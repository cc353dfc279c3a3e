"""What the plans of a round ask about the same few users, each found once.

The journeys of a round are asked about nearly the same users, those with new data, and many of their
predicates are the same or read the same events. So an answer is kept for all of these users, as ordinals: one
set for all groups. It is right for users that have not changed since; `Pool` finds answers that are right for
some users, and begins new ones when there are none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from typing import TypeVar, cast

from pyroaring import BitMap

from engine.backends.local.account.account import Account
from engine.backends.local.account.watches import ChangedUsers
from engine.backends.local.storage.arrays import Uint32s
from engine.backends.local.storage.bitmaps import bitmap_of, ids_of
from engine.backends.local.storage.ordinals import Ordinals
from engine.values import Micros

T = TypeVar("T")

SHARED_USERS_MAX = 1 << 14
"""Users that are evaluated by shared answers; more are evaluated group by group."""


NEW_USERS_MAX = 1 << 12
"""Users of a group that may come in a round: of more, all scopes would have to be evaluated once more."""


class SharedAnswers:
    """Answers about some users of an account. Call with the state lock held."""

    def __init__(
        self,
        account: Account,
        ordinals: Ordinals,
        users: Mapping[int, BitMap],
        as_of: Micros,
        changed: ChangedUsers,
    ) -> None:
        """`users` by group; `changed` collects who has changed since before the first answer."""
        self.account = account
        self.ordinals = ordinals
        self.as_of = as_of
        """The instant that the plans are for: how long ago a window begins."""
        self.by_group = users
        self._asked: dict[int, tuple[Mapping[int, BitMap], BitMap | None]] = {}
        """Users asked about, by identity, and their ordinals; None: the answers are not about all of them."""
        self._changed = changed
        self._kept: dict[object, object] = {}
        self._in_order: Uint32s | None = None
        """The ordinals of all users, once they were asked for."""

    def are_about(self, users: Mapping[int, BitMap]) -> bool:
        """Whether these users, by group, which nobody changes, are among those of the answers."""
        return self._ordinals_of(users) is not None

    def _ordinals_of(self, users: Mapping[int, BitMap]) -> BitMap | None:
        found = self._asked.get(id(users))
        if found is None:
            are = all(some.issubset(self.by_group.get(group, _NOBODY)) for group, some in users.items())
            found = users, self.ordinals.joined(sorted(users.items())) if are else None
            self._asked[id(users)] = found
        return found[1]

    def hold(self, users: Mapping[int, BitMap]) -> bool:
        """Whether the answers are right for these users, by group."""
        if self._changed.are_all or not self.are_about(users):
            return False
        return not any(self._changed.among(group, some) for group, some in users.items())

    def changed(self) -> Mapping[int, BitMap]:
        """All users of the account, by group, that have changed meanwhile."""
        return self._changed.users

    def ordinals_of(self, users: Mapping[int, BitMap]) -> BitMap:
        """The ordinals of users, by group, that the answers are about. Do not modify the result."""
        found = self._ordinals_of(users)
        assert found is not None
        return found

    def in_places(self, places: Uint32s) -> BitMap:
        """The ordinals of users by their places among all that the answers are about."""
        if self._in_order is None:
            self._in_order = ids_of(self.ordinals_of(self.by_group))
        return bitmap_of(self._in_order[places])

    def once(self, name: object, find: Callable[[], T]) -> T:
        """What `find` gives, found once for each name."""
        if name in self._kept:
            return cast(T, self._kept[name])
        found = self._kept[name] = find()
        return found


class Pool:
    """The shared answers of a round for one account. Call with the state lock held."""

    def __init__(self, account: Account, as_of: Micros, held: ExitStack) -> None:
        """`held` ends the watches over who changes."""
        self.account = account
        self.ordinals = Ordinals([count + NEW_USERS_MAX for count in account.directory.counts])
        self._as_of = as_of
        self._held = held
        self._answers: list[SharedAnswers] = []
        self._split: dict[bytes, Mapping[int, BitMap]] = {}

    @property
    def is_possible(self) -> bool:
        """Whether users have ordinals."""
        return self.ordinals.hold(self.account.directory.counts)

    def first(self, users: Mapping[int, BitMap], others: Iterable[Mapping[int, BitMap]]) -> SharedAnswers:
        """Answers for a caller that hears by itself which of these users have changed since the first were
        found. The first are also about `others`, of whom will be asked, as long as they are few.
        """
        for found in self._answers:
            if found.are_about(users):
                return found
        return self._begun([users] if self._answers else [users, *_few_of(others)])

    def now(self, users: Mapping[int, BitMap], others: Iterable[Mapping[int, BitMap]] = ()) -> SharedAnswers:
        """Answers that are right for these users as they are now. New ones are about all users that have
        changed since the first, and about `others`, as long as they are few.
        """
        for found in reversed(self._answers):
            if found.hold(users):
                return found
        changed = self._answers[0].changed() if self._answers else {}
        are_few = sum(map(len, changed.values())) <= SHARED_USERS_MAX
        return self._begun([users, *([changed] if are_few else ()), *_few_of(others)])

    def by_group(self, users: BitMap) -> Mapping[int, BitMap]:
        """Some ordinals as users by group: found once for each set. Do not modify the result."""
        name = users.serialize()
        found = self._split.get(name)
        if found is None:
            found = self._split[name] = dict(self.ordinals.by_group(users))
        return found

    def _begun(self, users: Iterable[Mapping[int, BitMap]]) -> SharedAnswers:
        changed = self._held.enter_context(self.account.watches.watching())
        begun = SharedAnswers(self.account, self.ordinals, _joined(users), self._as_of, changed)
        self._answers.append(begun)
        return begun


def _few_of(sets: Iterable[Mapping[int, BitMap]]) -> Iterator[Mapping[int, BitMap]]:
    """The first sets of users, by group, as many as are few together."""
    every: dict[int, BitMap] = {}
    last: Mapping[int, BitMap] = {}
    for users in sets:
        # Journeys with the same users give the same object.
        if users is not last:
            last = users
            for group, some in users.items():
                every[group] = every[group] | some if group in every else some
            if sum(map(len, every.values())) > SHARED_USERS_MAX:
                return
            yield users


def _joined(sets: Iterable[Mapping[int, BitMap]]) -> dict[int, BitMap]:
    every: dict[int, BitMap] = {}
    # Journeys with the same users give the same object.
    for users in {id(some): some for some in sets}.values():
        for group, some in users.items():
            every[group] = every[group] | some if group in every else some.copy()
    return every


_NOBODY = BitMap()
