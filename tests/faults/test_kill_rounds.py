"""A few rounds of kills; `make kill ROUNDS=1000` runs many."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.kill_ledger import REFUSED_SLOT, Answer, EventLedger, EventRow
from tests.faults.kill_round import KillRounds

ROUNDS = 8
ROUNDS_MAX = 100


def test_acknowledged_writes_survive_every_kill_once(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """Ends when each kind of writer has written and was cut off; on a slow machine that takes more rounds."""
    played = KillRounds(tmp_path / "store", str(pytestconfig.getoption("--hypothesis-seed")))
    tally = played.tally
    while tally.rounds < ROUNDS or not all((tally.events, tally.updates, tally.trios, tally.unanswered)):
        assert tally.rounds < ROUNDS_MAX, tally
        played.round()
    played.finish()
    assert tally.ends.total() >= ROUNDS


# --- the ledger ---------------------------------------------------------------------------------------------


def rows(*slots: int, user_id: str = "ann") -> list[EventRow]:
    return [EventRow(user_id, slot, event_id=f"{user_id}/{slot}") for slot in slots]


def test_lost_acknowledged_event_is_a_fault() -> None:
    ledger = EventLedger()
    ledger.send(rows(0, 1))
    ledger.acknowledge(Answer(2, 0, ()), 1)
    assert ledger.settle({"ann": 0b01}) == ["ann lost slots [1], which were acknowledged"]


def test_batch_in_flight_is_atomic() -> None:
    for observed, faults in ((0b000, 0), (0b111, 0), (0b011, 2)):
        ledger = EventLedger()
        ledger.send(rows(0, 1, 2), "r")
        assert len(ledger.settle({"ann": observed})) == faults
        assert [batch.in_store for batch in ledger.lost] == [observed == 0b111]


def test_batches_in_flight_survive_in_order() -> None:
    for observed, faults in (
        (0b00, []),
        (0b01, []),
        (0b11, []),
        (0b10, ["ann has slots [1], which it should not have"]),
    ):
        ledger = EventLedger()
        ledger.send(rows(0))
        ledger.send(rows(1))
        assert ledger.settle({"ann": observed}) == faults


def test_expected_answer_to_a_batch() -> None:
    ledger = EventLedger()
    refused = EventRow("ann", REFUSED_SLOT, fault="no name")
    assert ledger.send([*rows(0, 0), refused], "r").expected == Answer(1, 1, (2,))
    assert ledger.send(rows(0, 1)).expected == Answer(1, 1, ())
    # The same request again is answered as it was first.
    assert ledger.send(rows(0, 1), "r").expected == Answer(1, 1, (2,))
    ledger.settle({"ann": 0})
    # Nothing of it reached the store: sent again, all of it is new.
    assert ledger.send(rows(0, 1), "r").expected == Answer(2, 0, ())


def test_a_wrong_answer_is_a_fault() -> None:
    ledger = EventLedger()
    ledger.send(rows(0), "r")
    ledger.acknowledge(Answer(0, 1, ()), 5)
    ledger.send(rows(1))
    ledger.acknowledge(Answer(1, 0, ()), 5)
    ledger.send([], "r")
    ledger.acknowledge(Answer(1, 0, ()), 6)
    assert [fault.partition(" was answered")[0] for fault in ledger.settle({"ann": 0b11})] == [
        "'r'",
        "revision 5",
        "'r'",
    ]
