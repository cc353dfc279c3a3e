"""The engine's answers about a world, through the same interface that the service uses."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import msgspec

from engine.backends.base import Contains, Count, Members
from engine.backends.local.backend import LocalBackend
from engine.plan.expiry import expiry_plan
from engine.plan.model import Plan
from engine.plan.passes import ALL_PASSES, Pass
from engine.values import Micros
from tests.conformance.site import forget_if_empty
from tests.oracle.trees import Trees
from tests.oracle.world import Alias, Batch, Erase, Expire, Forget, Journey, World, walk

PAGE_USERS = 3


class EngineSide:
    """A store with many worlds, each in its own account; `opened` opens it."""

    def __init__(self, directory: Path, opened: Callable[[Path], LocalBackend] = LocalBackend.open) -> None:
        self.directory = directory
        self._opened = opened
        self.backend = opened(directory)
        self._fed: dict[str, int] = {}

    def close(self) -> None:
        """Closes the store."""
        self.backend.close()

    def restart(self) -> None:
        """Closes the store and opens it again."""
        self.go_on_in(self.directory)

    def go_on_in(self, directory: Path) -> None:
        """Closes the store and opens the one in another directory in its place."""
        self.backend.close()
        self.directory = directory
        self.backend = self._opened(directory)

    def moved_to(self, directory: Path, opened: Callable[[Path], LocalBackend]) -> None:
        """As `go_on_in`, with a store of another kind."""
        self._opened = opened
        self.go_on_in(directory)

    def feed(self, world: World, until: int | None = None) -> None:
        """Sends the operations up to that one (default: all) that were not sent before."""
        end = len(world.operations) if until is None else until
        for operation in world.operations[self._fed.get(world.account, 0) : end]:
            match operation:
                case Batch():
                    self.backend.append(world.account, operation.records, request_id=operation.request_id)
                case Alias():
                    self.backend.alias(world.account, operation.from_user_id, operation.to_user_id)
                case Erase():
                    self.backend.erase(world.account, operation.user_ids)
                case Expire():
                    self.backend.remove_events(world.account, operation.before)
                case Forget():
                    forget_if_empty(self.backend, world.account, operation.name)
        self._fed[world.account] = max(end, self._fed.get(world.account, 0))

    # --- questions ------------------------------------------------------------------------------------------

    def all_members(self, world: World, passes: Sequence[Pass] = ALL_PASSES) -> dict[str, frozenset[str]]:
        """The users of every milestone, after everything has been fed."""
        self.feed(world)
        trees = Trees(world)
        return dict(zip(trees.milestones, self.members(trees.plan(passes=passes)), strict=True))

    def members(self, plan: Plan) -> list[frozenset[str]]:
        """The users of each root, read page by page."""
        return [self._members_of(msgspec.structs.replace(plan, roots=(root,))) for root in plan.roots]

    def _members_of(self, plan: Plan) -> frozenset[str]:
        user_ids: list[str] = []
        after = ""
        while True:
            page = self.backend.execute(plan, Members(after=after, limit=PAGE_USERS))
            user_ids += page.user_ids
            after = page.next_after
            if not after:
                assert len(user_ids) == len(set(user_ids)), f"a user twice among the members: {user_ids}"
                return frozenset(user_ids)

    def sizes(self, plan: Plan) -> list[int]:
        """The size of each root."""
        return list(self.backend.execute(plan, Count()).sizes)

    def contained(self, plan: Plan, user_ids: Iterable[str]) -> list[frozenset[str]]:
        """For each root, which of these users it contains, asked one by one."""
        found: list[set[str]] = [set() for _ in plan.roots]
        for user_id in user_ids:
            flags = self.backend.execute(plan, Contains((user_id,))).flags[0]
            for users, flag in zip(found, flags, strict=True):
                if flag:
                    users.add(user_id)
        return [frozenset(users) for users in found]

    # --- stored membership ----------------------------------------------------------------------------------

    def refresh(
        self, trees: Trees, journey: Journey, as_of: Micros, before: Micros | None = None
    ) -> dict[str, frozenset[str]]:
        """Brings the stored membership of a journey's milestones to `as_of`, from what it was at `before`
        (None = it is not stored yet), and reads it.
        """
        world = trees.world
        ids = [milestone.id for milestone in walk(journey.milestones)]
        names = [world.audience_name(milestone_id) for milestone_id in ids]
        plan = trees.plan(as_of)
        roots = tuple(plan.roots[trees.milestones.index(milestone_id)] for milestone_id in ids)
        moved = None
        if before is not None:
            tree = trees.by_journey[journey.id]
            moved = expiry_plan(trees.account, tree, before, as_of, trees.resolve)
        self.backend.refresh(
            world.account,
            f"{world.account}/journeys/{journey.id}",
            names,
            msgspec.structs.replace(plan, roots=roots),
            moved_by_time=moved,
            whole=before is None,
        )
        return {
            milestone_id: frozenset(self.backend.stored_members(name, Members()).user_ids)
            for milestone_id, name in zip(ids, names, strict=True)
        }

    def replayed(self, audience: str) -> frozenset[str]:
        """The members that the change log of an audience leads to, from the empty set."""
        members: set[str] = set()
        after = 0
        while True:
            page = self.backend.changes(audience, after, PAGE_USERS)
            for change in page.changes:
                after += 1
                assert change.sequence == after, f"change {change.sequence} follows change {after - 1}"
                assert change.entered != (change.user_id in members), f"{change} changes nothing"
                (members.add if change.entered else members.remove)(change.user_id)
            if page.caught_up:
                return frozenset(members)

    def known(self, audience: str, user_ids: Sequence[str]) -> dict[str, bool]:
        """The stored answers for users, except those that must be evaluated."""
        published = self.backend.published(audience.partition("/audiences/")[0])
        flags = {user: published.contains(audience, user) for user in user_ids}
        return {user: flag for user, flag in flags.items() if flag is not None}
