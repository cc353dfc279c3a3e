"""No state that is published, for however short a time, is older than an acknowledged write.

Checks take what is published without a lock, also in the middle of an operation that publishes twice. So each
test looks at all states that an operation publishes, not only at the last one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engine.backends.base import UserRecord
from engine.backends.local.backend import LocalBackend
from engine.backends.local.membership.published import PublishedAccount
from engine.backends.local.settings import LocalSettings
from engine.criteria.model import Equals
from engine.plan.model import AttributeMatch, Plan
from tests.conformance.site import ACCOUNT, AUDIENCE, JOURNEY, NOON, SHOP, WEB

OTHER = f"{ACCOUNT}/audiences/second"
GOLD = AttributeMatch(workspaces=(SHOP,), key="plan", test=Equals("gold"))
ONE = Plan(account=ACCOUNT, as_of=NOON, steps=(GOLD,), roots=(0,))
BOTH = Plan(account=ACCOUNT, as_of=NOON, steps=(GOLD,), roots=(0, 0))
TRUTH = {"ada": False, "bob": True, "cleo": True}


class Published(dict[str, PublishedAccount]):
    """Keeps every state of an account that is published."""

    def __init__(self, before: dict[str, PublishedAccount]) -> None:
        super().__init__(before)
        self.states: list[PublishedAccount] = []

    def __setitem__(self, account: str, state: PublishedAccount) -> None:
        self.states.append(state)
        super().__setitem__(account, state)


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[LocalBackend]:
    opened = LocalBackend.open(tmp_path, settings=LocalSettings(groups=2, checkpoint_s=3_600.0))
    yield opened
    opened.close()


def write(backend: LocalBackend, **plans: str) -> None:
    records = [UserRecord(user, WEB, NOON, {"plan": plan}) for user, plan in plans.items()]
    backend.append(ACCOUNT, records)


def refresh_both(backend: LocalBackend) -> None:
    backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE, OTHER], BOTH)


def refresh_one(backend: LocalBackend) -> None:
    backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE], ONE)


def refresh_another_scope(backend: LocalBackend) -> None:
    backend.refresh(ACCOUNT, f"{JOURNEY}-again", [f"{ACCOUNT}/audiences/third"], ONE)


def erase(backend: LocalBackend) -> None:
    backend.erase(ACCOUNT, ["dan"])


def alias(backend: LocalBackend) -> None:
    backend.alias(ACCOUNT, "dan", "eve")


def trim(backend: LocalBackend) -> None:
    for audience in (AUDIENCE, OTHER):
        backend.trim_changes(audience, 1)


def exit_third(backend: LocalBackend) -> None:
    refresh_another_scope(backend)
    backend.exit_all(f"{ACCOUNT}/audiences/third", NOON)


OPERATIONS = [refresh_both, refresh_one, refresh_another_scope, erase, alias, trim, exit_third]


def by_name(operation: Callable[[LocalBackend], None]) -> str:
    return operation.__name__


@pytest.mark.parametrize("refresh", [refresh_both, refresh_one], ids=by_name)
@pytest.mark.parametrize("operation", OPERATIONS, ids=by_name)
def test_no_published_state_is_older_than_a_write(
    backend: LocalBackend,
    refresh: Callable[[LocalBackend], None],
    operation: Callable[[LocalBackend], None],
) -> None:
    """1. Both audiences are refreshed. 2. Users change. 3. The scope is refreshed, perhaps without one of
    them. 4. Another user changes, and something happens that concerns none of these.
    """
    memberships = backend._state.memberships
    write(backend, ada="gold", bob="tin", cleo="tin", dan="gold", eve="tin")
    refresh_both(backend)
    write(backend, ada="tin", bob="gold")
    seen = memberships._published = Published(memberships._published)
    refresh(backend)
    for state in seen.states:
        _check(state, ["ada", "bob"])
    write(backend, cleo="gold")
    seen.states.clear()
    operation(backend)
    assert seen.states
    for state in seen.states:
        _check(state, list(TRUTH))


def _check(state: PublishedAccount, users: list[str]) -> None:
    for audience in (AUDIENCE, OTHER):
        answers = {user: state.contains(audience, user) for user in users}
        assert all(answer in (None, TRUTH[user]) for user, answer in answers.items()), (audience, answers)
