"""A store under test, with short helpers."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import msgspec

from engine.backends.base import Appended, Backend, Contains, Count, EventRecord, Members, Record, UserRecord
from engine.criteria.model import EventType
from engine.errors import FailedPrecondition
from engine.plan.model import Plan, Step, Universe
from engine.values import Micros, Value
from tests.oracle.world import Alias, Batch, Erase, Expire, Forget, Operation
from tests.short_forms import examples
from tests.stores import go_on_with, settle

ACCOUNT = "accounts/acme"
WEB = f"{ACCOUNT}/workspaces/shop/inputs/web"
APP = f"{ACCOUNT}/workspaces/shop/inputs/app"
DESK = f"{ACCOUNT}/workspaces/support/inputs/desk"
SHOP = f"{ACCOUNT}/workspaces/shop"
SUPPORT = f"{ACCOUNT}/workspaces/support"
INPUTS = (APP, WEB, DESK)

AUDIENCE = f"{ACCOUNT}/audiences/first"
JOURNEY = f"{ACCOUNT}/journeys/welcome"

NOON: Micros = 1_700_049_600_000_000
PAGE_USERS = 3
EXAMPLES_OVER_NETWORK = examples(5)
"""Examples of a property that a backend over the network is shown. Campaigns of its own show it thousands."""

T = TypeVar("T", bound=Callable[..., None])


class Site:
    """A backend and its directory."""

    def __init__(
        self, opener: Callable[[Path], Backend], directory: Path, *, over_network: bool = False
    ) -> None:
        self._opener = opener
        self._examples_left: dict[str, int] | None = {} if over_network else None
        self.directory = directory
        self.backend = opener(directory)

    def wants(self, test: str, examples_max: int) -> bool:
        """Whether a test of a property is to show another example."""
        if self._examples_left is None:
            return True
        left = self._examples_left.get(test, examples_max)
        self._examples_left[test] = left - 1
        return left > 0

    def restart(self) -> None:
        """Closes the store and opens it again."""
        self.backend.close()
        self.backend = self._opener(self.directory)

    def settle(self) -> None:
        """Flushes memory to disk, so that answers come from stored data."""
        settle(self.backend)

    def open_copy(self, directory: Path) -> Backend:
        """Opens another directory with the same kind of backend."""
        return self._opener(directory)

    def open_snapshot(self, directory: Path) -> Backend:
        """Opens a snapshot in place, as the original store."""
        return self._opener(go_on_with(directory))

    def send(self, *records: Record, request_id: str = "") -> Appended:
        """Appends to the usual account."""
        return self.backend.append(ACCOUNT, records, request_id=request_id)

    def happen(self, account: str, operations: Sequence[Operation]) -> None:
        """Performs the operations."""
        for operation in operations:
            match operation:
                case Batch():
                    self.backend.append(account, operation.records, request_id=operation.request_id)
                case Alias():
                    self.backend.alias(account, operation.from_user_id, operation.to_user_id)
                case Erase():
                    self.backend.erase(account, operation.user_ids)
                case Expire():
                    self.backend.remove_events(account, operation.before)
                case Forget():
                    forget_if_empty(self.backend, account, operation.name)

    def members(self, plan: Plan) -> list[frozenset[str]]:
        """The users of each root, in pages."""
        return [
            frozenset(listed(self.backend, msgspec.structs.replace(plan, roots=(root,))))
            for root in plan.roots
        ]

    def sizes(self, plan: Plan) -> tuple[int, ...]:
        """The size of each root."""
        return self.backend.execute(plan, Count()).sizes

    def holding(self, plan: Plan, user_ids: Sequence[str]) -> list[frozenset[str]]:
        """For each root which of the users it contains, asked in one call and one by one."""
        together = self.backend.execute(plan, Contains(tuple(user_ids))).flags
        alone = tuple(self.backend.execute(plan, Contains((user_id,))).flags[0] for user_id in user_ids)
        assert together == alone
        return [
            frozenset(user_id for user_id, flags in zip(user_ids, together, strict=True) if flags[at])
            for at in range(len(plan.roots))
        ]

    def users(self, *inputs: str) -> frozenset[str]:
        """The users of the usual account that belong to an input."""
        return self.members(plan_of(Universe(inputs=tuple(sorted(inputs or INPUTS)))))[0]


def sparing(test: T) -> T:
    """A test of a property, which shows fewer examples to a backend over the network."""

    @functools.wraps(test)
    def run(*arguments: Any, **named: Any) -> None:
        if named["shared_site"].wants(test.__name__, EXAMPLES_OVER_NETWORK):
            test(*arguments, **named)

    return cast(T, run)


def forget_if_empty(backend: Backend, account: str, name: str) -> None:
    """Forgets an account, workspace or input, unless it has users."""
    with contextlib.suppress(FailedPrecondition):
        backend.forget(account, name)


def listed(backend: Backend, plan: Plan) -> list[str]:
    """The members of the first root, page by page, in order."""
    user_ids: list[str] = []
    after = ""
    while True:
        page = backend.execute(plan, Members(after=after, limit=PAGE_USERS))
        assert len(page.user_ids) <= PAGE_USERS
        user_ids += page.user_ids
        after = page.next_after
        if not after:
            assert len(user_ids) == len(set(user_ids))
            return user_ids


def plan_of(*steps: Step, account: str = ACCOUNT, as_of: Micros = NOON) -> Plan:
    """A plan whose only root is its last step."""
    return Plan(account=account, as_of=as_of, steps=steps, roots=(len(steps) - 1,))


def event(
    user_id: str,
    name: str = "buy",
    *,
    time: Micros = NOON,
    through: str = WEB,
    event_id: str = "",
    **attributes: Value,
) -> EventRecord:
    """A custom event."""
    return EventRecord(user_id, through, name, EventType.CUSTOM, time, attributes, event_id)


def update(
    user_id: str, *, time: Micros = NOON, through: str = WEB, **attributes: Value | None
) -> UserRecord:
    """A user update with attributes only."""
    return UserRecord(user_id, through, time, attributes)
