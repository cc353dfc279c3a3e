"""What a round hands to readers takes a share of the time at most, and is of all journeys at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from engine.audiences.live import serving
from engine.audiences.live.serving import (
    JOURNEYS_ALWAYS_SERVED,
    REST_S_MAX,
    SERVING_SHARE,
    JourneyServing,
)
from engine.audiences.live.state import JourneyState

MANY = {f"accounts/a/journeys/j{number}": JourneyState() for number in range(JOURNEYS_ALWAYS_SERVED + 1)}
FEW = dict([*MANY.items()][:-1])
NO_OUTLOOKS: Any = None
"""No journey here has a definition, so no audience is looked at."""


class Writer:
    """Takes some processor time for each journey. It is the module `time` as well."""

    def __init__(self) -> None:
        self.served: list[str] = []
        self.now = self.spent = 0.0
        self.cost = 0.0

    def serve(self, account: str, scopes: Mapping[str, object]) -> None:
        assert account == "accounts/a"
        self.served += scopes
        self.spent += self.cost * len(scopes)
        self.now += self.cost * len(scopes)

    def serve_ids(self, account: str) -> None:
        assert account == "accounts/a"

    def monotonic(self) -> float:
        return self.now

    def thread_time(self) -> float:
        return self.spent

    def rounds(
        self, service: JourneyServing, count: int, every: float, journeys: dict[str, JourneyState] = MANY
    ) -> int:
        """Runs rounds and returns how many of them served. None serves a part of the journeys."""
        found = 0
        for _ in range(count):
            self.served.clear()
            assert not service.serve_all(journeys)
            assert self.served in ([], [*journeys])
            found += bool(self.served)
            self.now += every
        return found


@pytest.fixture
def writer(monkeypatch: pytest.MonkeyPatch) -> Any:
    found = Writer()
    monkeypatch.setattr(serving, "time", found)
    return found


def test_few_journeys_are_served_after_each_round(writer: Any) -> None:
    writer.cost = 0.01
    assert writer.rounds(JourneyServing(writer, NO_OUTLOOKS), 20, every=0.001, journeys=FEW) == 20


def test_many_are_served_for_a_share_of_the_time(writer: Any) -> None:
    writer.cost = 0.002
    service = JourneyServing(writer, NO_OUTLOOKS)
    began = writer.now
    served = writer.rounds(service, 300, every=0.01)
    share = writer.spent / (writer.now - began)
    assert 2 <= served < 100
    assert SERVING_SHARE / 2 < share <= SERVING_SHARE * 1.1


def test_they_are_served_once_a_second_however_long_it_takes(writer: Any) -> None:
    writer.cost = 1.0
    service = JourneyServing(writer, NO_OUTLOOKS)
    assert writer.rounds(service, 2, every=REST_S_MAX) == 2
