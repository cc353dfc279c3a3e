"""Which users are in the roots of a plan, as a refresh asks for it, over the rows of a cluster.

All users are evaluated as of one revision, however long it takes, so the result is the state at that
revision. Users with later data are dirty, and are left to the next refresh.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from pyroaring import BitMap

from engine.backends.base import Contains
from engine.backends.clickhouse.gateway.cluster_people import ClusterPeople
from engine.backends.clickhouse.gateway.cluster_state import ClusterState
from engine.backends.clickhouse.plans import Plans
from engine.backends.clickhouse.view import View
from engine.backends.local.account.people import People
from engine.backends.local.storage.turns import Read
from engine.backends.local.storage.user_ref import DENSE_MASK, GROUP_SHIFT
from engine.plan.model import Plan
from engine.values import PARTITION_COUNT

USERS_AT_ONCE = 100_000
"""Users of one statement over everyone, about."""
IDS_AT_ONCE = 1_024
"""Users whose ids or refs are looked up before others go first."""

Bases = Mapping[int, BitMap | None]
"""Users to evaluate, by group; None: all of the group."""
UserFlags = tuple[str, tuple[bool, ...]]
T = TypeVar("T")


class ClusterEvaluation:
    """The users of a plan's roots at one revision. Call with the state lock held."""

    is_void = False
    """Removed events count for no plan any longer."""
    is_of_its_beginning = True

    def __init__(
        self,
        account: ClusterPeople,
        bases: Bases,
        sets: Mapping[int, Sequence[BitMap]],
        *,
        roots: int,
        is_whole: bool,
    ) -> None:
        """`roots`: how many there are."""
        self.account: People = account
        self.is_whole = is_whole
        self._bases = bases
        self._sets = sets
        self._roots = roots

    def catch_up(self, read: Read) -> None:
        """Users that changed are left to the next refresh."""

    def settle(self, read: Read) -> None:
        """As `catch_up`."""

    def users(self) -> Bases:
        """The users evaluated, by group in order; None = all of a group."""
        return {group: self._bases[group] for group in sorted(self._bases)}

    def answers(self) -> list[dict[int, BitMap]]:
        """For each root the users evaluated that are in it, by group in order, without those erased since."""
        alive = self.account.directory.alive
        in_order = sorted(self._bases)
        return [
            {group: self._sets[group][root] & alive(group) for group in in_order}
            for root in range(self._roots)
        ]


class ClusterPlan:
    """A plan over the users of an account. Call with the state lock held; it is let go while the cluster is
    asked.
    """

    def __init__(self, plans: Plans, state: ClusterState, plan: Plan, account: ClusterPeople) -> None:
        self._plans = plans
        self._state = state
        self._plan = plan
        self._account = account

    def first_root(self, users: Mapping[int, BitMap] | None, read: Read) -> dict[int, BitMap]:
        """Which of some users (None = all) are in the first root, by group."""
        return {group: sets[0] for group, sets in self._roots(self._bases(users), read).items()}

    def evaluate(self, users: Mapping[int, BitMap] | None, read: Read) -> ClusterEvaluation:
        """Evaluates some users (None = all) for all roots."""
        bases = self._bases(users)
        sets = self._roots(bases, read)
        roots = len(self._plan.roots)
        return ClusterEvaluation(self._account, bases, sets, roots=roots, is_whole=users is None)

    def _bases(self, users: Mapping[int, BitMap] | None) -> Bases:
        return dict.fromkeys(range(self._account.groups)) if users is None else users

    def _roots(self, users: Bases, read: Read) -> dict[int, list[BitMap]]:
        found = {group: [BitMap() for _ in self._plan.roots] for group in users}
        if not users:
            return found
        with self._state.viewing_locked(self._account.name) as view:
            pieces = self._everyone(view) if None in users.values() else self._some(view, users, read)
            while True:
                with read.released(is_brief=True):
                    piece = next(pieces, None)
                if piece is None:
                    return found
                for some in _chunks(piece, IDS_AT_ONCE):
                    self._take(some, users, found)
                    read.pause()

    def _everyone(self, view: View) -> Iterator[list[UserFlags]]:
        """Everyone in some root, in pieces."""
        pieces = min(max(1, self._account.directory.size() // USERS_AT_ONCE), PARTITION_COUNT)
        bounds = [PARTITION_COUNT * number // pieces for number in range(pieces + 1)]

        def answers() -> Iterator[list[UserFlags]]:
            for start, end in itertools.pairwise(bounds):
                partitions = None if pieces == 1 else range(start, end)
                yield list(self._plans.flags(view, self._plan, partitions))

        return answers()

    def _some(self, view: View, users: Bases, read: Read) -> Iterator[list[UserFlags]]:
        """The flags of some users, in pieces."""
        ids: list[str] = []
        for group, some in users.items():
            for dense in _chunks(some or (), IDS_AT_ONCE):
                ids += filter(None, self._account.directory.user_ids(group, dense))
                read.pause()

        def answers() -> Iterator[list[UserFlags]]:
            for some in _chunks(ids, USERS_AT_ONCE):
                flags = self._plans.execute(view, self._plan, Contains(tuple(some))).flags
                yield list(zip(some, flags, strict=True))

        return answers()

    def _take(self, piece: Sequence[UserFlags], users: Bases, found: Mapping[int, Sequence[BitMap]]) -> None:
        directory = self._account.directory
        refs = directory.find_many([user for user, _ in piece]).tolist()
        for (user, flags), ref in zip(piece, refs, strict=True):
            group, dense = ref >> GROUP_SHIFT, ref & DENSE_MASK
            # An id may have become an alias of another user since.
            if ref < 0 or group not in users or directory.canonical(user) != user:
                continue
            base = users[group]
            if base is None or dense in base:
                for root, flag in zip(found[group], flags, strict=True):
                    if flag:
                        root.add(dense)


def _chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Items in lists of a size."""
    iterator = iter(items)
    while chunk := list(itertools.islice(iterator, size)):
        yield chunk
