"""What was evaluated for a round may no longer hold when it is stored: users are evaluated once more."""

from __future__ import annotations

from typing import Any

import pytest

from engine.backends.base import Members, UserRecord
from engine.backends.local.backend import LocalBackend
from engine.criteria.model import Equals
from engine.plan.model import AttributeMatch, Plan
from tests.conformance.site import ACCOUNT, AUDIENCE, JOURNEY, NOON, SHOP, WEB

GOLD = Plan(
    account=ACCOUNT,
    as_of=NOON,
    steps=(AttributeMatch(workspaces=(SHOP,), key="plan", test=Equals("gold")),),
    roots=(0,),
)


@pytest.mark.parametrize("is_first", [True, False])
def test_others_go_on_while_users_are_evaluated_once_more(
    monkeypatch: pytest.MonkeyPatch, is_first: bool
) -> None:
    backend: Any = LocalBackend.in_memory()
    backend.append(ACCOUNT, [UserRecord("ada", WEB, NOON, {"plan": "gold"})])
    if not is_first:
        backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE], GOLD)
    backend.append(ACCOUNT, [UserRecord("bob", WEB, NOON, {"plan": "gold"})])
    holds, evaluated = backend._holds, backend._evaluated
    refused: list[bool] = []
    locks_kept: list[bool] = []

    def holds_later(*args: Any) -> bool:
        if refused:
            return bool(holds(*args))
        refused.append(True)
        return False

    def noted(*args: Any) -> Any:
        locks_kept.append(args[-1]._keeps_lock)
        return evaluated(*args)

    monkeypatch.setattr(backend, "_holds", holds_later)
    monkeypatch.setattr(backend, "_evaluated", noted)
    [membership] = backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE], GOLD)
    assert locks_kept == [False, False]
    assert membership.size == 2
    assert sorted(backend.stored_members(AUDIENCE, Members()).user_ids) == ["ada", "bob"]
    assert backend.pending(JOURNEY) == 0
    backend.close()
