"""A short campaign of kills while changes are delivered; `make deliveries` runs long ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.faults.delivery_campaign import Campaign
from tests.faults.delivery_ledger import DeliveryLedger
from tests.faults.delivery_receivers import RECEIVERS

CHANGES = 1_000
MEMBERS = 200
"""At the end, when half of the users have entered again."""
KILLS = 1


@pytest.mark.parametrize("kind", RECEIVERS)
def test_kills_while_delivering_lose_nothing(tmp_path: Path, pytestconfig: pytest.Config, kind: str) -> None:
    seed = str(pytestconfig.getoption("--hypothesis-seed"))
    outcome = Campaign(kind, tmp_path, changes=CHANGES, kills=KILLS, seed=seed).run()
    assert (outcome.changes, outcome.exits, outcome.kills) == (CHANGES, MEMBERS, KILLS + 1)


# --- the ledger ---------------------------------------------------------------------------------------------


def event(sequence: int, user: str, *, enters: bool = True, event_id: str = "") -> dict[str, Any]:
    return {
        "id": event_id or f"{sequence}.{user}",
        "source": "/accounts/a/audiences/x",
        "type": f"milepost.membership.{'entered' if enters else 'exited'}",
        "subject": user,
        "data": {"sequence": sequence},
    }


def faults(*events: dict[str, Any], in_line: bool = True) -> list[str]:
    ledger = DeliveryLedger(2, in_line=in_line)
    for each in events:
        ledger.take(each)
    return ledger.faults


def test_a_batch_may_be_repeated() -> None:
    ledger = DeliveryLedger(2)
    for sequence, user in ((1, "ann"), (2, "bob"), (1, "ann"), (2, "bob"), (3, "eve"), (2, "bob")):
        ledger.take(event(sequence, user))
    assert (ledger.faults, ledger.arrived, ledger.repeated) == ([], 3, 3)
    assert ledger.members == {"ann", "bob", "eve"}
    ledger.take(event(1, "ann"))
    assert ledger.faults == ["1 was repeated after 3, more than a batch later"]


def test_what_is_lost_or_out_of_order_is_a_fault() -> None:
    assert faults(event(1, "ann"), event(3, "bob")) == ["3 came after 1"]
    assert faults(event(2, "bob"), event(1, "ann"), in_line=False) == []
    late = (event(2, "ann", enters=False), event(1, "ann"))
    assert "1 of ann came after 2" in faults(*late, in_line=False)


def test_another_event_of_a_sequence_is_a_fault() -> None:
    assert faults(event(1, "ann"), event(1, "ann", event_id="x")) == ["1 was repeated as another event"]


def test_a_user_enters_and_exits_by_turns() -> None:
    assert faults(event(1, "ann"), event(2, "ann")) == ["2: ann entered twice"]
    assert faults(event(1, "ann", enters=False)) == ["1: ann exited twice"]
    assert faults(event(1, "ann"), event(2, "ann", enters=False), event(3, "ann")) == []
